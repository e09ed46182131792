"""The mapping file: which values of another program's LeRobot dataset are the joints, the gripper and the camera."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from rlfp_ros import schema
from rlfp_ros.contract import Intrinsics
from rlfp_ros.control.arm import Arm
from rlfp_ros.data.lerobot import rows
from rlfp_ros.data.lerobot.layout import MAX_VALUES
from rlfp_ros.data.lerobot.reader import LerobotDataset
from rlfp_ros.schema import ConfigurationError, Schema

Place = Annotated[int, Field(ge=0, le=MAX_VALUES)]
LARGEST = 1e6  # scale or offset


class ValueSource(Schema):
    """One value of a feature: ours is `scale` times theirs plus `offset`."""

    name: str | Place = Field(union_mode="left_to_right")  # its name, or its place if the dataset gives no names
    scale: float = Field(1.0, ge=-LARGEST, le=LARGEST)
    offset: float = Field(0.0, ge=-LARGEST, le=LARGEST)  # rad, or m for the gripper


Source = str | Place | ValueSource


class LerobotMapping(Schema):
    """A mapping file.

    Attributes
    ----------
    image
        The feature with the camera's images; empty if the dataset has only one.
    camera
        Intrinsics of these images; none if they have the field of view of the bundle's camera.
    state
        The feature with the joint positions.
    unit
        The unit of the joint positions, unless a joint has a scale.
    joints
        By our name of each joint: the name of its value in `state`.
    gripper
        The value in `state` that is the gripper's width in m.
    command
        The feature with the commanded positions, whose values have the same names; empty if there is none.
    """

    image: str = ""
    camera: Intrinsics | None = None
    state: str = rows.STATE
    unit: Literal["rad", "deg"] = "rad"
    joints: dict[str, Source]
    gripper: Source | None = None
    command: str = ""


def load_mapping(path: Path, arm: Arm) -> LerobotMapping:
    """Load a mapping file.

    Raises
    ------
    ConfigurationError
        If it cannot be read, or its joints are not those of the arm.
    """
    mapping = schema.load(path, LerobotMapping)
    for name in mapping.joints:
        if name not in arm.joint_names:
            raise ConfigurationError(
                f"{path}: joints has {name!r}, expected the joints of arm {arm.name}: {', '.join(arm.joint_names)}"
            )
    for name in arm.joint_names:
        if name not in mapping.joints:
            raise ConfigurationError(
                f"{path}: joints has no {name}, expected each joint of arm {arm.name}: {', '.join(arm.joint_names)}"
            )
    return mapping


def own_mapping(dataset: LerobotDataset, arm: Arm) -> LerobotMapping:
    """Return the mapping of a dataset that `export-lerobot` wrote.

    Raises
    ------
    ConfigurationError
        If another program wrote it, so that a mapping file is needed, or if it is of another arm.
    """
    entry = dataset.info.features.get(rows.STATE)
    names = entry.value_names if entry else ()
    if rows.IMAGES not in dataset.info.features or rows.GRIPPER not in names:
        raise ConfigurationError(
            f"{dataset.directory}: was not written by `rlfp export-lerobot`, so its values' meaning is not known; "
            f"give a mapping file with --mapping ({rows.STATE} has: {', '.join(names) or 'no names'})"
        )
    wanted = rows.position_names(arm)
    if names != (*wanted, rows.GRIPPER):
        raise ConfigurationError(
            f"{dataset.directory}: its joints are {', '.join(names[:-1])}, expected those of arm {arm.name} "
            f"({', '.join(wanted)}); choose the arm with --arm, or give a mapping file with --mapping"
        )
    return LerobotMapping(
        image=rows.IMAGES,
        joints=dict(zip(arm.joint_names, wanted, strict=True)),
        gripper=rows.GRIPPER,
        command=rows.ACTION,
    )


class MappedValues:
    """Picks the joints and the gripper's width out of a feature's rows.

    Parameters
    ----------
    dataset
        The dataset.
    feature
        The feature.
    mapping
        Which values to pick.
    arm
        The arm, for the order of its joints.
    with_gripper
        Whether the gripper's width is needed.

    Raises
    ------
    ConfigurationError
        If the feature or one of its values is not there.
    """

    def __init__(
        self, dataset: LerobotDataset, feature: str, mapping: LerobotMapping, arm: Arm, with_gripper: bool = True
    ) -> None:
        self._dataset, self._feature = dataset, feature
        self._entry = dataset.feature(feature)
        degrees = math.pi / 180 if mapping.unit == "deg" else 1.0
        self._joints = [self._pick(mapping.joints[name], degrees) for name in arm.joint_names]
        gripper = mapping.gripper if with_gripper else None
        self._gripper = None if gripper is None else self._pick(gripper, 1.0)

    def joints(self, values: np.ndarray) -> np.ndarray:
        """Return the joint positions [N, J] in rad from the feature's values [N, n]."""
        return np.column_stack([values[:, place] * scale + offset for place, scale, offset in self._joints])

    def gripper_widths(self, values: np.ndarray) -> np.ndarray:
        """Return the gripper's widths [N] in m; 0 if the mapping has none."""
        if self._gripper is None:
            return np.zeros(len(values))
        place, scale, offset = self._gripper
        return values[:, place] * scale + offset

    def _pick(self, source: Source, usual_scale: float) -> tuple[int, float, float]:
        """Return the place of a value, its scale and its offset."""
        if not isinstance(source, ValueSource):
            source = ValueSource(name=source)
        scale = source.scale if "scale" in source.model_fields_set else usual_scale
        name, offset = source.name, source.offset
        names, size = self._entry.value_names, int(np.prod(self._entry.shape))
        known = ", ".join(names) or f"no names, but {size} values; give their places from 0"
        if isinstance(name, str) and name in names:
            return names.index(name), scale, offset
        if isinstance(name, int) and 0 <= name < size:
            return name, scale, offset
        raise ConfigurationError(
            f"{self._dataset.directory}: feature {self._feature} has no value {name!r}; it has: {known}"
        )
