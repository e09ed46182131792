"""Calibration of an arm of bus servos: the JSON file that LeRobot writes (`lerobot-calibrate`), and angles from it.

The file has one entry for each motor, by the name of its joint:

    {"shoulder_pan": {"id": 1, "drive_mode": 0, "homing_offset": -1365, "range_min": 746, "range_max": 3477}, ...}

`homing_offset` is what the servo itself subtracts from its encoder. `range_min` and `range_max` are the ends of the
joint's range, in steps after that subtraction. 0 rad is the middle of the range, and the angle grows with the steps, or
falls if `drive_mode` is 1. A jaw is different: LeRobot's 0 %, which is `range_min`, is the closed jaw.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from rlfp_ros import schema
from rlfp_ros.control.arm import Arm
from rlfp_ros.schema import ConfigurationError, Schema

STEPS = 4096  # per turn
STEP_RAD = 2 * math.pi / STEPS
SMALLEST_RANGE = 100  # steps, 9 degrees; a smaller one was not recorded by moving the joint
NARROWER_RAD = 0.02  # by which a calibrated range may be narrower than the arm's limits without a warning


class ServoCalibration(Schema):
    """The entry of one motor."""

    id: int = Field(ge=0, le=253)
    drive_mode: int = Field(ge=0, le=1)  # 1: the angle falls if the steps grow
    homing_offset: int = Field(ge=-2047, le=2047)  # steps
    range_min: int = Field(ge=0, le=STEPS - 1)  # steps
    range_max: int = Field(ge=0, le=STEPS - 1)  # steps

    @model_validator(mode="after")
    def _has_a_range(self) -> ServoCalibration:
        if self.range_max - self.range_min < SMALLEST_RANGE:
            raise ValueError(
                f"range_min is {self.range_min} and range_max is {self.range_max}, expected range_max to be at least "
                f"{SMALLEST_RANGE} steps larger; calibrate the joint again"
            )
        return self


@dataclass(frozen=True, eq=False)
class ArmCalibration:
    """Conversion between the steps of J servos and the angles of the arm's joints, gripper last.

    Attributes
    ----------
    names
        Joints, as the arm's file names them.
    servos
        Their entries in the file.
    zeros, directions
        [J] steps at 0 rad, and [J] 1 or -1.
    """

    names: tuple[str, ...]
    servos: tuple[ServoCalibration, ...]
    zeros: np.ndarray
    directions: np.ndarray

    @property
    def ids(self) -> tuple[int, ...]:
        """The servos' numbers on the bus."""
        return tuple(servo.id for servo in self.servos)

    def angles(self, steps: np.ndarray) -> np.ndarray:
        """Convert positions [J] in steps to rad."""
        return self.directions * (steps - self.zeros) * STEP_RAD

    def steps(self, angles: np.ndarray) -> np.ndarray:
        """Convert angles [J] rad to whole steps inside the calibrated ranges."""
        lowest = np.array([servo.range_min for servo in self.servos])
        highest = np.array([servo.range_max for servo in self.servos])
        wanted = np.rint(self.zeros + self.directions * angles / STEP_RAD)
        return np.clip(wanted, lowest, highest).astype(int)

    def ranges(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest angles, each [J] rad."""
        ends = [np.array([getattr(servo, name) for servo in self.servos]) for name in ("range_min", "range_max")]
        low, high = (self.angles(steps) for steps in ends)
        return np.minimum(low, high), np.maximum(low, high)


def load_arm_calibration(path: Path, arm: Arm) -> ArmCalibration:
    """Load LeRobot's calibration file for an arm. Motors that the arm does not have are ignored.

    Raises
    ------
    ConfigurationError
        If the file is missing or is no JSON, if a motor of the arm is missing or two have the same number, or if a
        value is out of its range.
    """
    document = _read_json(path)
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}: is {type(document).__name__}, expected an entry for each motor")
    fingers = arm.gripper.joint_names if arm.gripper else ()
    names = (*arm.joint_names, *fingers)
    missing = [name for name in names if name not in document]
    if missing:
        raise ConfigurationError(
            f"{path}: {', '.join(missing)} is missing, found {', '.join(map(str, document)) or 'no motors'}; calibrate "
            f"the whole arm {arm.name} with lerobot-calibrate"
        )
    servos = tuple(schema.validate(document[name], ServoCalibration, f"{path}: {name}") for name in names)
    by_id: dict[int, str] = {}
    for name, servo in zip(names, servos, strict=True):
        if servo.id in by_id:
            raise ConfigurationError(f"{path}: {by_id[servo.id]} and {name} have the same id {servo.id}; correct one")
        by_id[servo.id] = name
    directions = np.array([-1.0 if servo.drive_mode else 1.0 for servo in servos])
    zeros = np.array([(servo.range_min + servo.range_max) / 2 for servo in servos])
    if arm.gripper is not None:
        closed = float(arm.gripper.positions(arm.gripper.closed_width)[0])
        for place in range(len(arm.joint_names), len(names)):
            end = servos[place].range_max if servos[place].drive_mode else servos[place].range_min
            zeros[place] = end - directions[place] * closed / STEP_RAD
    return ArmCalibration(names, servos, zeros, directions)


def narrower_ranges(calibration: ArmCalibration, arm: Arm) -> list[str]:
    """Return a sentence for each joint whose calibrated range does not reach the arm's limits."""
    sentences = []
    for name, low, high, lower, upper in zip(
        arm.joint_names, *calibration.ranges(), arm.limits.lower, arm.limits.upper, strict=False
    ):
        if low > lower + NARROWER_RAD or high < upper - NARROWER_RAD:
            sentences.append(
                f"{name} was calibrated from {low:.2f} to {high:.2f} rad, but {arm.origin} allows {lower:.2f} to "
                f"{upper:.2f}; move it to both of its ends when you calibrate"
            )
    return sentences


def _read_json(path: Path) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ConfigurationError(f"{path}: a name is given twice; remove one")
        return found

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path}: no such file; give the JSON file that lerobot-calibrate wrote for this arm"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror or error}); correct that") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"{path}: is not JSON ({error}); give the file that lerobot-calibrate wrote") from None
