"""An arm as data: joints, limits with their source, frames, gripper and topics, from one YAML file."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from rlfp_ros import paths, requirements, schema
from rlfp_ros.control.arm_parts import (
    CameraPlace,
    Capsule,
    Driver,
    Gripper,
    JointLimits,
    Obstacle,
    Pointer,
    ToolLimits,
    Topics,
)
from rlfp_ros.control.workspace import CellFile, Workspace, is_cell
from rlfp_ros.plugins import Registry
from rlfp_ros.schema import Angle, ConfigurationError, Coordinate, Schema

MESH_NAME = re.compile(rb"""(?P<before><mesh\b[^>]*?\bfilename\s*=\s*["'])(?P<name>[^"']*)""")  # in a URDF
LIMITS = ("lower", "upper", "velocity", "acceleration", "jerk", "effort")


class Arm(Schema):
    """One arm. Joint vectors everywhere in this package follow the order of `joint_names`.

    Two arms are the same arm if their content is the same (`digest`); `name` is a label for people.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$", max_length=64)  # part of names of folders and files
    # A path (relative to this file), or "<Python package>:<path>", e.g. "pybullet_data:franka_panda/panda.urdf".
    urdf: str
    # Prefix of all joint and link names in the URDF (xacro's `prefix` argument). The names in this file are without it.
    # Found automatically if exactly one prefix fits.
    urdf_prefix: str = ""
    base_frame: str
    tool_frame: str  # the tool centre point; its z axis points out of the gripper
    joint_names: tuple[str, ...]
    home: tuple[Angle, ...]  # rad
    limits: JointLimits
    tool_limits: ToolLimits
    capsules: tuple[Capsule, ...] = ()  # without capsules no distances are checked
    table_height: Coordinate | None = 0.0  # m, in the base frame; None if there is no table
    obstacles: tuple[Obstacle, ...] = ()
    gripper: Gripper | None = None
    pointer: Pointer | None = None
    topics: Topics = Topics()
    driver_joint_names: dict[str, str] = Field(default_factory=dict)  # name here -> name that the drivers use
    driver: Driver | None = None  # started if a launch argument gives the robot's address
    # The meshes that the simulator draws: the visual ones, the collision ones, or coarse copies of the collision ones.
    visuals: Literal["low_polygon", "collision", "visual"] = "collision"
    # Values of tasks and of the scene that differ for this arm. What is not given is derived from `tool_limits`.
    tasks: dict[str, dict[str, Any]] = Field(default_factory=dict)  # task -> field of sim/tasks/<task>.yaml -> value
    camera: CameraPlace | None = None
    workspace: Workspace | None = None  # the cell that the arm stands in; `load_arm` takes it from the cell's file
    _file: Path | None = PrivateAttr(default=None)
    _cell_file: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _consistent(self) -> Arm:
        count = len(self.joint_names)
        given = {name: getattr(self.limits, name) for name in LIMITS}
        if self.limits.velocity_near_ends is not None:
            near = self.limits.velocity_near_ends.model_dump()
            given |= {f"velocity_near_ends.{name}": values for name, values in near.items()}
        for name, values in given.items():
            if len(values) != count:
                raise ValueError(f"limits.{name} has {len(values)} values, expected {count}, one for each joint")
            if name in LIMITS[2:] and min(values) <= 0:
                raise ValueError(f"limits.{name} has {min(values)}, expected values above 0")
        if len(self.home) != count:
            raise ValueError(f"home has {len(self.home)} values, expected {count}, one for each joint")
        for joint, low, high, home in zip(
            self.joint_names, self.limits.lower, self.limits.upper, self.home, strict=True
        ):
            if not low < home < high:
                raise ValueError(f"home of {joint} is {home}, expected it inside its limits [{low}, {high}]")
        if self.gripper is not None and self.pointer is not None:
            raise ValueError("gripper and pointer are given, expected one of them; remove the other")
        ours = (*self.joint_names, *(self.gripper.joint_names if self.gripper else ()))
        unknown = [name for name in self.driver_joint_names if name not in ours]
        if unknown:
            raise ValueError(f"driver_joint_names has {unknown[0]!r}, expected names out of: {', '.join(ours)}")
        theirs = self.driver_names(ours)
        if len(set(theirs)) != len(theirs):
            raise ValueError(f"driver_joint_names makes {', '.join(theirs)}, expected each name once")
        return self

    def driver_names(self, joint_names: Sequence[str]) -> tuple[str, ...]:
        """Return the drivers' names of these joints, as in joint_states and in commands."""
        return tuple(self.driver_joint_names.get(name, name) for name in joint_names)

    @property
    def origin(self) -> str:
        """The file that the arm was read from, as messages name it."""
        if self._file is None:
            return f"arm {self.name}"
        try:
            return str(self._file.relative_to(paths.share_directory()))
        except ValueError:
            return str(self._file)

    @property
    def label(self) -> str:
        """Name of the cell, or of an arm without one: part of the names of bundles and run folders."""
        return self.workspace.name if self.workspace is not None else self.name

    @property
    def cell_origin(self) -> str:
        """The file of the arm's cell, or of an arm without one, as messages name it."""
        return self.origin if self._cell_file is None else str(self._cell_file)

    @property
    def object_mesh(self) -> Path | None:
        """The mesh of the cell's object; None for a box. Raises ConfigurationError if the file is missing."""
        mesh = "" if self.workspace is None else self.workspace.object.mesh
        if not mesh:
            return None
        package, colon, inside = mesh.partition(":")
        folder = data_folder(package) if colon else (Path() if self._file is None else self._file.parent)
        if folder is None:
            raise ConfigurationError(
                f"{self.cell_origin}: objects.0.mesh needs the Python package {package!r}, which is not installed; "
                f"{requirements.fix_for(package)}"
            )
        path = folder / Path(inside if colon else mesh).expanduser()
        if not path.is_file():
            raise ConfigurationError(
                f"{self.cell_origin}: objects.0.mesh is {mesh!r}, but there is no file {path}; correct the path"
            )
        return path

    @property
    def urdf_path(self) -> Path:
        """Absolute path of the URDF. Raises ConfigurationError if the package or the file is missing."""
        package, colon, inside = self.urdf.partition(":")
        if not colon:
            return self._urdf_file()
        folder = data_folder(package)
        if folder is None:
            raise ConfigurationError(
                f"{self.origin}: urdf needs the Python package {package!r}, which is not installed; "
                f"{requirements.fix_for(package)}"
            )
        path = folder / inside
        if not path.exists():
            raise ConfigurationError(f"{self.origin}: urdf is {self.urdf!r}, but {path} does not exist")
        return path

    def _urdf_file(self) -> Path:
        given = Path(self.urdf).expanduser()
        folders = [paths.share_directory() / "sim" / "assets"]
        if self._file is not None:
            folders.insert(0, self._file.parent)
        for folder in folders:
            if (folder / given).is_file():
                return (folder / given).resolve()
        beside = "" if self._file is None else f" beside {self._file.name} or"
        raise ConfigurationError(
            f"{self.origin}: urdf is {self.urdf!r}, but there is no such file{beside} in sim/assets/; correct the path"
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the arm's content, the URDF included. Raises ConfigurationError if the URDF is missing."""
        content = json.dumps(self.document(), sort_keys=True)
        mesh = self.object_mesh
        shapes = self.urdf_path.read_bytes() + (b"" if mesh is None else mesh.read_bytes())
        return hashlib.sha256(content.encode() + shapes).hexdigest()

    def document(self) -> dict[str, Any]:
        """Return the arm as JSON without the paths of URDF and mesh, and without `workspace` if it has none.

        An arm of an older version, which had no `workspace`, then has the same digest.
        """
        document = self.model_dump(mode="json", exclude={"urdf"})
        if self.workspace is None:
            del document["workspace"]
        else:
            document["workspace"]["objects"][0].pop("mesh")
        return document


def data_folder(package: str) -> Path | None:
    """Find the folder with a Python package's files. Returns None if the package is not installed."""
    try:
        spec = importlib.util.find_spec(package)
    except (ModuleNotFoundError, ValueError):  # "no_such.part", or an empty name
        spec = None
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    # cmeel's wheels (example-robot-data) have no module to import: their files lie in a prefix, as CMake installs them.
    try:
        distribution = importlib.metadata.distribution(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    folder = Path(str(distribution.locate_file(f"cmeel.prefix/share/{distribution.metadata['Name']}")))
    return folder if folder.is_dir() else None


# An entry is the path of a YAML file, or an `Arm`. The files in config/arms/ are registered by their names.
ARMS: Registry[Path | Arm] = Registry("arm", builtin="rlfp_ros.control.arms", entry_type=(Path, Arm))


def load_arm(name_or_path: str | Path) -> Arm:
    """Load an arm by name (a file in config/arms/, or one that a plugin registered) or from a YAML file.

    The file of a cell gives the arm in that cell.

    Raises
    ------
    ConfigurationError
        If there is no such arm, if the file is wrong, or if the file takes the name of a registered arm although its
        content differs.
    """
    given = Path(name_or_path).expanduser()
    text = str(name_or_path)
    if given.suffix in (".yaml", ".yml") or len(given.parts) > 1:
        if given.is_file():
            return _load_own(given)
        wrong = "is a folder" if given.is_dir() else "no such file"
        raise ConfigurationError(f"{given}: {wrong}; give the YAML file of an arm, or a name: {', '.join(ARMS)}")
    if text in ARMS:
        return _registered(text)
    if given.is_file():
        return _load_own(given)
    raise ConfigurationError(
        f"config/arms/ has no {text!r}; it has: {', '.join(ARMS)}; "
        "an arm of your own is given as the path of its YAML file, or with --plugin FILE"
    )


def read_arm(path: Path) -> Arm:
    """Read an arm from a file, whatever other arms are called. Raises ConfigurationError if the file is wrong."""
    arm = schema.load(path, Arm)
    arm._file = path.resolve()
    return arm


def _registered(name: str) -> Arm:
    entry = ARMS[name]
    arm = entry if isinstance(entry, Arm) else read_arm(entry)
    if arm.name != name:
        raise ConfigurationError(
            f"{arm.origin}: name is {arm.name!r}, but the arm is registered as {name!r}; rename one"
        )
    return arm


def find_cell(name_or_path: str | Path) -> Path:
    """Find the file of a cell: `cells/<name>.yaml`, or one of the user's.

    Raises
    ------
    ConfigurationError
        If there is no such file, or it is not the file of a cell.
    """
    path = paths.resolve(name_or_path, "cells", ".yaml")
    if not is_cell(schema.read_yaml(path)):
        raise ConfigurationError(
            f"{path}: is not the file of a cell, which has arm and camera; ./rlfp cell new writes one"
        )
    return path


def read_cell(path: Path) -> CellFile:
    """Read the file of a cell. Raises ConfigurationError that names the file and the field if it is wrong."""
    return schema.load(path, CellFile)


def _load_own(path: Path) -> Arm:
    document = schema.read_yaml(path)
    if is_cell(document):
        return _in_cell(schema.validate(document, CellFile, str(path)), path)
    arm = read_arm(path)
    if arm.name in ARMS and not (path.parent / "bundle.yaml").is_file():  # a bundle's copy may be older
        other = _registered(arm.name)
        differing = differences(arm, other)
        if differing:
            free = path.stem if path.stem not in ARMS else f"my_{arm.name}"
            raise ConfigurationError(
                f"{path}: name is {arm.name!r}, which is the name of {other.origin}, but {differing[0]} differs; give "
                f"this arm a name of its own, for example {free!r}"
            )
    return arm


def _in_cell(cell: CellFile, path: Path) -> Arm:
    """Return the arm of a cell with its workspace."""
    folder = path.resolve().parent
    by_path = Path(cell.arm).suffix in (".yaml", ".yml")
    try:
        arm = load_arm(folder / Path(cell.arm).expanduser() if by_path else cell.arm)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: arm is {cell.arm!r}: {error}") from None
    if arm.workspace is not None:
        raise ConfigurationError(f"{path}: arm is {cell.arm!r}, which is a cell itself; give an arm")
    taken = {obstacle.name for obstacle in arm.obstacles}
    twice = [obstacle.name for obstacle in cell.obstacles if obstacle.name in taken]
    if twice:
        raise ConfigurationError(f"{path}: obstacles has {twice[0]!r}, which {arm.origin} has too; rename or remove it")
    mesh = cell.object.mesh
    if mesh and ":" not in mesh:
        mesh = str((folder / Path(mesh).expanduser()).resolve())
    tasks = {task: arm.tasks.get(task, {}) | cell.tasks.get(task, {}) for task in {**arm.tasks, **cell.tasks}}
    placed = arm.model_copy(
        update={
            "workspace": cell.workspace(mesh),
            "obstacles": (*arm.obstacles, *cell.obstacles),
            "tasks": tasks,
            "table_height": 0.0,
        }
    )
    placed._cell_file = path.resolve()
    _ = placed.object_mesh  # raises if the file is missing
    return placed


def flat_fields(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested fields to dotted names."""
    fields: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            fields |= flat_fields(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields


def differences(arm: Arm, other: Arm) -> list[str]:
    """List the fields in which two arms differ, as dotted names. The files that they came from do not matter."""
    ours, theirs = (flat_fields(each.document()) for each in (arm, other))
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if arm.urdf != other.urdf and _without_folders(arm.urdf_path) != _without_folders(other.urdf_path):
        names.append("urdf")
    return names


def _without_folders(urdf: Path) -> bytes:
    """Return a URDF whose meshes are named without their folders, which differ in the copy that a bundle carries."""
    return MESH_NAME.sub(lambda found: found["before"] + found["name"].rpartition(b"/")[2], urdf.read_bytes())


@dataclass(frozen=True)
class JointState:
    """Measured joints of one arm at one time, already matched by name into the arm's order."""

    stamp_ns: int
    positions: np.ndarray  # [J] rad
    velocities: np.ndarray  # [J] rad/s
    efforts: np.ndarray  # [J] N m
    gripper_width: float = 0.0  # m
