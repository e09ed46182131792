"""Rooms of the MuJoCo twin, from `sim/scenes/twin_*.yaml`. Training never uses them.

A room models a place of deployment: light, surfaces, a camera with its lens, the arm's friction, and delays. A pair
`[low, high]` is drawn uniformly for every episode; a single number is fixed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from rlfp_ros import paths, schema
from rlfp_ros.schema import ConfigurationError, Point, Schema
from rlfp_ros.simulation.randomization import Sample, stream

TEXTURE_PX = 512  # edge to which photographs are resized
# rgb, 0..1: blue, green, violet and cyan, whose hues are clearly not red
OTHER_COLOURS = ((0.10, 0.22, 0.70), (0.08, 0.45, 0.20), (0.38, 0.18, 0.65), (0.05, 0.45, 0.52))


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int | float) else value


def _rising(span: tuple[float, float]) -> tuple[float, float]:
    if span[0] > span[1]:
        raise ValueError("must be low, high, and the low value is above the high one; exchange them")
    return span


def _bounded(least: float, most: float) -> AfterValidator:
    """Check that both ends of a span are from `least` to `most`."""

    def check(span: tuple[float, float]) -> tuple[float, float]:
        if span[0] < least or span[1] > most:
            raise ValueError(f"must be from {least:g} to {most:g}; correct it")
        return span

    return AfterValidator(check)


Span = Annotated[tuple[float, float], BeforeValidator(_pair), AfterValidator(_rising)]  # low, high; or one number
NotNegative = Annotated[Span, _bounded(0.0, 1e6)]
Positive = Annotated[Span, _bounded(1e-4, 1e6)]
Fraction = Annotated[Span, _bounded(0.0, 1.0)]
Delay = Annotated[Span, _bounded(0.0, 2.0)]  # s
Brightness = Annotated[float, Field(ge=0.0, le=100.0)]
Colour = tuple[Brightness, Brightness, Brightness]  # rgb, 0..1; more for a lamp that is brighter than white
Degrees = Annotated[float, Field(ge=-360.0, le=360.0)]
LensTerm = Annotated[float, Field(ge=-100.0, le=100.0)]


class Moved(Schema):
    """A displacement of the camera from the bundle's pose that the graph does not know."""

    xyz: Point = (0.0, 0.0, 0.0)  # m, base frame
    rotation_deg: tuple[Degrees, Degrees, Degrees] = (
        0.0,
        0.0,
        0.0,
    )  # about the camera's own x (down-up), y (left-right), z (roll)
    spread_m: float = Field(0.0, ge=0, le=10)  # per axis and episode: the precision of placing a tripod
    spread_deg: float = Field(0.0, ge=0, le=360)


class RoomCamera(Schema):
    """The calibrated camera: camera_info has its size, view and lens, but not its place and its electronics."""

    width: int = Field(ge=32, le=1920)  # px
    height: int = Field(ge=32, le=1080)  # px
    field_of_view_deg: float = Field(gt=5, lt=120)  # vertical
    distortion: tuple[LensTerm, LensTerm, LensTerm, LensTerm, LensTerm] = (0.0, 0.0, 0.0, 0.0, 0.0)  # k1 k2 p1 p2 k3
    moved: Moved = Moved()
    exposure: Annotated[Span, _bounded(-10.0, 10.0)] = (0.0, 0.0)  # error of automatic exposure, stops
    white_balance: tuple[NotNegative, NotNegative, NotNegative] = (
        (1.0, 1.0),
        (1.0, 1.0),
        (1.0, 1.0),
    )  # gain of r, g, b
    gamma: Positive = (1.0, 1.0)
    read_noise: NotNegative = (0.0, 0.0)  # counts of 255, standard deviation
    shot_noise: NotNegative = (0.0, 0.0)  # counts of 255 at white; grows with the root of the signal
    blur: NotNegative = (0.0, 0.0)  # px, standard deviation
    vignetting: float = Field(0.0, ge=0, le=1)  # fraction of light lost in the corners
    jpeg_quality: int = Field(100, ge=10, le=100)


class Light(Schema):
    """A lamp. `shadows` cost render time; usually one lamp has them."""

    position: Point  # m, base frame
    towards: Point  # m, base frame
    colour: Colour
    specular: float = Field(0.3, ge=0, le=1)
    shadows: bool = False
    directional: bool = False  # parallel light, as through a window
    wander: float = Field(0.0, ge=0, le=10)  # random displacement, m, per axis and episode


class Surface(Schema):
    """Material of a surface."""

    textures: tuple[str, ...] = ()  # "<python package>:<path inside it>"; one is chosen per episode; empty for none
    colours: tuple[Colour, ...] = ((1.0, 1.0, 1.0),)  # one is chosen per episode; multiplies the texture
    repeat: float = Field(1.0, gt=0, le=1000)  # repetitions of the texture over the surface
    specular: float = Field(0.2, ge=0, le=1)
    shininess: float = Field(0.3, ge=0, le=1)
    reflectance: float = Field(0.0, ge=0, le=1)


class Clutter(Schema):
    """Objects on the table that the task does not need and that have no collision."""

    count: int = Field(0, ge=0, le=12)
    speed: NotNegative = (0.0, 0.0)  # m/s, back and forth
    size: Positive = (0.02, 0.05)  # m, half extent
    clearance: float = Field(0.1, ge=0, le=10)  # m, from the task's objects


class Dynamics(Schema):
    """Drives and contacts of the arm, in MuJoCo's terms."""

    substeps: int = Field(4, ge=1, le=16)  # of physics in a tick of 1/240 s
    bandwidth_hz: Positive  # of the position loop
    damping_ratio: NotNegative = (1.0, 1.0)
    gravity_compensation: NotNegative = (1.0, 1.0)  # fraction of the arm's weight that the drives compensate
    friction: NotNegative = (0.0, 0.0)  # N m, dry, in the joints
    damping: NotNegative = (0.0, 0.0)  # N m s/rad, in the joints
    armature: NotNegative = (0.0, 0.0)  # kg m^2, of the rotors
    joint_noise: NotNegative = (0.0, 0.0)  # rad, standard deviation of every reading
    home_offset: float = Field(0.0, ge=0, le=3.2)  # rad, per joint and episode
    block_mass: Positive = (0.03, 0.03)  # kg
    block_friction: NotNegative = (0.7, 0.7)
    slider_mass: Positive = (0.2, 0.5)  # kg
    slider_friction: NotNegative = (0.5, 2.0)  # N, dry, of a drawer
    slider_damping: NotNegative = (3.0, 10.0)  # N s/m


class Timing(Schema):
    """Delays, in s."""

    camera_latency: Delay
    camera_jitter: Delay = (0.0, 0.0)  # standard deviation per frame
    dropped_frames: Fraction = (0.0, 0.0)  # probability
    dropped_run: Annotated[Span, _bounded(1.0, 1000.0)] = (1.0, 1.0)  # frames lost in a row once one is lost
    command_latency: Delay


class Room(Schema):
    """`sim/scenes/twin_<name>.yaml`."""

    name: str
    camera: RoomCamera
    ambient: NotNegative  # light without a direction, ratio
    lights: tuple[Light, ...]
    table: Surface
    floor: Surface
    wall: Surface
    arm: Surface
    block: Surface
    other: Surface = Surface(colours=OTHER_COLOURS, specular=0.3)  # of the task's objects that are not red
    clutter: Clutter = Clutter()
    dynamics: Dynamics
    timing: Timing

    @model_validator(mode="after")
    def _lit(self) -> Room:
        if not self.lights or len(self.lights) > 4:
            raise ValueError(f"lights has {len(self.lights)} entries, expected 1 to 4")
        return self

    def draw(self, seed: int) -> Sample:
        """Draw an episode of this room from its seed."""
        values: dict[str, Any] = {}
        for part in (self.camera, self.dynamics, self.timing, self.clutter):
            for name, value in part:
                spans = _spans(value)
                if spans is None:
                    continue
                # Every parameter has its own stream, so that changing one does not change the others.
                drawn = stream(seed, f"room {name}").uniform(spans[:, 0], spans[:, 1])
                values[name] = float(drawn[0]) if len(drawn) == 1 else drawn.tolist()
        values["ambient"] = float(stream(seed, "room ambient").uniform(*self.ambient))
        return Sample(seed=seed, profile=self.name, textures="room", values=values)


def _spans(value: Any) -> np.ndarray | None:
    """Return low and high [N, 2] if `value` is a span or several, else None."""
    if not isinstance(value, tuple) or not value:
        return None
    if len(value) == 2 and all(isinstance(end, float) for end in value):
        return np.array([value])
    if all(isinstance(span, tuple) and len(span) == 2 for span in value):
        return np.array(value)
    return None


def load_room(name_or_path: str | Path) -> Room:
    """Return the room `sim/scenes/<name>.yaml`, or one of the user's. Raises ConfigurationError with file and field."""
    return schema.load(paths.resolve(name_or_path, "sim/scenes", ".yaml"), Room)


def load_texture(name: str) -> np.ndarray:
    """Return a photograph from a Python package, uint8 [TEXTURE_PX, TEXTURE_PX, 3] rgb."""
    package, _, inside = name.partition(":")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(f"texture {name!r} needs the Python package {package!r}; pip install it")
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ConfigurationError(f"texture {name!r}: {path} is not an image; name another in the room's file")
    return np.ascontiguousarray(cv2.resize(image, (TEXTURE_PX, TEXTURE_PX), interpolation=cv2.INTER_AREA)[..., ::-1])
