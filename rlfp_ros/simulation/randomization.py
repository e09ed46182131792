"""Domain randomisation as data: a profile gives every parameter a range with a unit, and an episode samples them.

A parameter that a profile leaves out keeps its nominal value, so that each can be switched off alone. All randomness of
an episode comes from its seed: the same seed gives the same sample and the same episode.
Dynamics randomisation: Peng et al. 2018, https://arxiv.org/abs/1710.06537. Appearance: Tobin et al. 2017,
https://arxiv.org/abs/1703.06907.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from rlfp_ros import paths, schema
from rlfp_ros.control.arm import Arm
from rlfp_ros.schema import ConfigurationError, Schema


class Range(Schema):
    """A uniform distribution with its unit. `low` and `high` may be lists with one number for each joint."""

    low: float | tuple[float, ...]
    high: float | tuple[float, ...]
    unit: str

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if len(self.lows) != len(self.highs) or not self.lows:
            raise ValueError(f"has {len(self.lows)} values in low and {len(self.highs)} in high, expected as many")
        for low, high in zip(self.lows, self.highs, strict=True):
            if low > high:
                raise ValueError(f"has low {low} above high {high}; exchange them")
        return self

    @property
    def lows(self) -> tuple[float, ...]:
        """The lower ends: one, or one for each joint."""
        return self.low if isinstance(self.low, tuple) else (self.low,)

    @property
    def highs(self) -> tuple[float, ...]:
        """The upper ends: one, or one for each joint."""
        return self.high if isinstance(self.high, tuple) else (self.high,)

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest value."""
        return min(self.lows), max(self.highs)

    @property
    def of_joints(self) -> bool:
        """Whether each joint has its own ends."""
        return isinstance(self.low, tuple) or isinstance(self.high, tuple)


@dataclass(frozen=True)
class Parameter:
    """A parameter that a profile may randomise: unit, nominal value, number of independent draws per episode."""

    unit: str
    nominal: float
    size: int = 1
    limits: tuple[float, float] | None = None  # None: those of the unit
    per_joint: bool = False  # whether a profile may give a list, with one range for each joint

    def bounds(self) -> tuple[float, float]:
        """Return the least and the greatest value that a profile may give."""
        return self.limits or UNIT_LIMITS[self.unit]


# The least and the greatest value of a parameter that a profile may give. Values outside them mean nothing, or stop
# the simulator in the middle of a training.
UNIT_LIMITS: dict[str, tuple[float, float]] = {
    "m": (-10.0, 10.0),
    "rad": (-3.2, 3.2),
    "deg": (-360.0, 360.0),
    "ratio": (0.0, 10.0),
    "probability": (0.0, 1.0),
    "count": (0, 20),
    "m/s": (0.0, 10.0),
    "stops": (-10.0, 10.0),
    "counts": (0.0, 255.0),
    "px": (0.0, 50.0),
    "percent": (1.0, 100.0),
    "N m s/rad": (0.0, 1000.0),
    "N": (0.0, 1000.0),
    "N s/m": (0.0, 1000.0),
    "N m": (0.0, 1000.0),
    "kg m^2": (0.0, 1000.0),
    "Hz": (0.1, 20.0),
    "s": (0.0, 2.0),
    "1": (0.0, 10.0),
}

JOINTS = 8  # draws for `home_offset`; an arm uses as many as it has joints
OBJECTS = 6  # draws per distractor parameter
OTHERS = 4  # draws per parameter of a task's objects that do not have the object's colour

DRIVE = "drive_bandwidth"

PARAMETERS: dict[str, Parameter] = {
    "camera_position": Parameter("m", 0.0, 3),
    "camera_angle": Parameter("rad", 0.0, 3),
    "field_of_view": Parameter("deg", 0.0),
    "lens_distortion": Parameter("1", 0.0, limits=(-1.0, 1.0)),
    "light_azimuth": Parameter("deg", 40.0),
    "light_elevation": Parameter("deg", 60.0),
    "light_colour": Parameter("ratio", 1.0, 3),
    "ambient": Parameter("ratio", 0.6),
    "diffuse": Parameter("ratio", 0.4),
    "specular": Parameter("ratio", 0.05),
    "shadows": Parameter("probability", 0.0),
    "block_hue": Parameter("deg", 0.0),
    "block_saturation": Parameter("ratio", 0.85),
    "block_value": Parameter("ratio", 0.8),
    "arm_value": Parameter("ratio", 0.9),
    "arm_tint": Parameter("ratio", 0.0),
    "distractors": Parameter("count", 0),
    "distractor_speed": Parameter("m/s", 0.0, OBJECTS),
    "exposure": Parameter("stops", 0.0),
    "white_balance": Parameter("ratio", 1.0, 3),
    "gamma": Parameter("1", 1.0, limits=(0.1, 10.0)),
    "noise": Parameter("counts", 0.0),
    "blur": Parameter("px", 0.0),
    "jpeg_quality": Parameter("percent", 100.0),
    "glare": Parameter("ratio", 0.0),
    "object_mass": Parameter("ratio", 1.0, limits=(0.01, 100.0)),
    "object_friction": Parameter("1", 0.7),
    "joint_damping": Parameter("N m s/rad", 0.0, per_joint=True),
    "motor_gain": Parameter("ratio", 1.0, limits=(0.01, 10.0), per_joint=True),
    "motor_strength": Parameter("ratio", 1.0, limits=(0.01, 10.0), per_joint=True),
    "joint_noise": Parameter("rad", 0.0, limits=(0.0, 1.0)),
    "home_offset": Parameter("rad", 0.0, JOINTS, per_joint=True),
    "camera_latency": Parameter("s", 0.03),
    "camera_jitter": Parameter("s", 0.0),
    "dropped_frames": Parameter("probability", 0.0),
    "command_latency": Parameter("s", 0.01),
    # A parameter's stream depends on its position: add new ones at the end, or recorded seeds give other episodes.
    "motion_blur": Parameter("s", 0.0),  # exposure time; one more rendering per 1/240 s
    "low_light": Parameter("ratio", 0.0),  # missing light; the sensor's gain and noise rise instead
    "fill_light": Parameter("ratio", 0.0),  # weight of a second light; one more rendering
    "fill_azimuth": Parameter("deg", 0.0),
    "occluders": Parameter("count", 0),
    "table_friction": Parameter("1", 0.5),
    "finger_friction": Parameter("1", 1.0),
    "lamps": Parameter("count", 0),  # lights beyond the second, from anywhere, of equal weight; one more rendering each
    "household": Parameter("count", 0),  # distractors from pybullet_data's 1000 random objects
    "photographs": Parameter("probability", 0.0),  # of a photograph as table or background
    "dropped_run": Parameter("count", 1, limits=(1, 1000)),  # frames lost in a row once one is lost
    "other_hue": Parameter("deg", 220.0, OTHERS),  # of each of a task's objects that are not red
    "other_saturation": Parameter("ratio", 0.85, OTHERS),
    "other_value": Parameter("ratio", 0.8, OTHERS),
    "slider_friction": Parameter("N", 1.0),  # dry, of a drawer
    "slider_damping": Parameter("N s/m", 5.0),
    # Drives with a torque instead of PyBullet's own motors, which a bandwidth of 0 leaves in place.
    DRIVE: Parameter("Hz", 0.0, JOINTS, per_joint=True),  # natural frequency with the inertia at home
    "drive_damping_ratio": Parameter("1", 1.0, JOINTS, per_joint=True),  # of the error of the speed
    "joint_friction": Parameter("N m", 0.0, JOINTS, per_joint=True),  # dry
    "joint_armature": Parameter("kg m^2", 0.0, JOINTS, per_joint=True),  # inertia of the rotor
    "gravity_compensation": Parameter("ratio", 1.0),  # fraction of the weight that the drives carry without an error
}
OF_DRIVES = ("drive_damping_ratio", "joint_friction", "joint_armature", "gravity_compensation")


class Profile(Schema):
    """`sim/randomization/<name>.yaml`."""

    name: str
    textures: Literal["plain", "train", "validation"]
    arm: str = ""  # name of the only arm that it is for; empty: any
    ranges: dict[str, Range] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> Profile:
        for name, given in self.ranges.items():
            known = PARAMETERS.get(name)
            if known is None:
                raise ValueError(f"{name} is not a known parameter; there are: {', '.join(PARAMETERS)}")
            if given.unit != known.unit:
                raise ValueError(f"{name}.unit is {given.unit!r}, expected {known.unit!r}")
            if given.of_joints and not known.per_joint:
                raise ValueError(f"{name} has a list of values, expected one number for low and one for high")
            (least, most), (low, high) = known.bounds(), given.ends
            if low < least or high > most:
                raise ValueError(
                    f"{name} is {low:g} to {high:g} {given.unit}, expected values from {least:g} to {most:g}"
                )
            if known.unit == "count" and not (low.is_integer() and high.is_integer()):
                raise ValueError(f"{name} is {low:g} to {high:g}, expected whole numbers")
            if name in OF_DRIVES and DRIVE not in self.ranges:
                raise ValueError(
                    f"{name} is given without {DRIVE}, expected both: PyBullet's own motors overcome any load"
                )
        return self

    def check_arm(self, arm: Arm) -> None:
        """Check that the profile is for this arm. Raises ConfigurationError."""
        if self.arm and self.arm != arm.name:
            raise ConfigurationError(
                f"profile {self.name}: arm is {self.arm!r}, but the arm is {arm.name}; give another profile, or "
                "leave `arm` out of it"
            )
        for name, given in self.ranges.items():
            if given.of_joints and len(given.lows) != len(arm.joint_names):
                raise ConfigurationError(
                    f"profile {self.name}: {name} has {len(given.lows)} values, expected {len(arm.joint_names)}, one "
                    f"for each joint of {arm.name}"
                )

    def without(self, *names: str) -> Profile:
        """Return the profile with some parameters at their nominal value (for ablations)."""
        return self.model_copy(update={"ranges": {k: v for k, v in self.ranges.items() if k not in names}})


def load_profile(name_or_path: str | Path) -> Profile:
    """Return the profile `sim/randomization/<name>.yaml`, or one of the user's.

    Raises ConfigurationError that names file, parameter, found and expected.
    """
    path = paths.resolve(name_or_path, "sim/randomization", ".yaml")
    document = schema.read_yaml(path)
    if isinstance(document, dict):  # ranges are written flat in the file
        own = {"name", "textures", "arm"}
        flat = {key: value for key, value in document.items() if key not in own}
        document = {key: value for key, value in document.items() if key in own} | {"ranges": flat}
    return schema.validate(document, Profile, source=str(path))


@dataclass(frozen=True)
class Sample:
    """The draws of one episode. `values[name]` is a float, or a list for parameters with several draws."""

    seed: int
    profile: str
    textures: str
    values: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def document(self) -> dict[str, Any]:
        """Return the sample as JSON-serialisable data, for `episode` messages and bags."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def sample(profile: Profile, seed: int) -> Sample:
    """Draw an episode's parameters.

    Each parameter has its own stream, so that switching one off does not change the others.
    """
    values: dict[str, Any] = {}
    for index, (name, parameter) in enumerate(PARAMETERS.items()):
        given = profile.ranges.get(name)
        if given is None:
            values[name] = parameter.nominal if parameter.size == 1 else [parameter.nominal] * parameter.size
            continue
        rng = np.random.default_rng([seed, index])
        size = len(given.lows) if given.of_joints else parameter.size
        drawn: np.ndarray = rng.uniform(given.low, given.high, size)
        if parameter.unit == "count":
            drawn = rng.integers(int(given.lows[0]), int(given.highs[0]) + 1, size)
        values[name] = drawn.tolist() if size > 1 or given.of_joints else drawn.item()
    return Sample(seed=seed, profile=profile.name, textures=profile.textures, values=values)


def per_joint(value: float | list[float], joints: int) -> list[float]:
    """Return a parameter's value for each joint: its own, or the one that all joints share."""
    return [value] * joints if isinstance(value, float | int) else value[:joints]


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Return the random generator of an episode for one purpose (task, camera noise, ...), independent of others."""
    return np.random.default_rng([seed, *purpose.encode()])
