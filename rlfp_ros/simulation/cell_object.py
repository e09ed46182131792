"""The object of a cell in simulation: its colours in a profile and in a room, and its mesh."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path

import coal
import numpy as np

from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.randomization import Profile, Range
from rlfp_ros.simulation.room import Room
from rlfp_ros.simulation.scene import Scene

PROPORTIONS = 0.05  # share by which the mesh's proportions may differ from those of `size`
MOST_TRIANGLES = 20_000  # PyBullet's renderer takes 0.2 ms per thousand
NOMINAL_MASS = 0.03  # kg, of a block without a cell
Colour = tuple[float, float, float]  # rgb, 0..1


@dataclass(frozen=True)
class ObjectMesh:
    """A mesh scaled and moved so that its bounding box is the object's."""

    file: Path
    scale: float
    middle: tuple[float, float, float]  # of the bounding box in the file's coordinates


def object_mesh(scene: Scene) -> ObjectMesh | None:
    """Return the mesh of a scene's object; None for a box.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, has too many triangles, or has other proportions than the object's `size`.
    """
    file = scene.object_mesh
    if file is None or scene.object is None:
        return None
    try:
        mesh = coal.MeshLoader().load(str(file), np.ones(3))
        corners, triangles = np.array(mesh.vertices()), int(mesh.num_tris)
    except Exception as error:  # coal raises various classes
        raise ConfigurationError(f"{file}: is not a mesh that can be read ({error}); export it again") from None
    if not len(corners) or triangles > MOST_TRIANGLES:
        raise ConfigurationError(
            f"{file}: has {triangles} triangles, expected 1 to {MOST_TRIANGLES}; simplify the mesh"
        )
    low, high = corners.min(axis=0), corners.max(axis=0)
    extents, size = high - low, np.array(scene.object.size)
    scale = float(size.max() / extents.max())
    if (np.abs(extents * scale - size) > PROPORTIONS * size.max()).any():
        fitting = ", ".join(f"{edge:.4g}" for edge in extents * scale)
        raise ConfigurationError(
            f"{file}: its box measures {fitting} m if it is as long as the object, but objects.0.size is "
            f"{list(scene.object.size)}; correct size, or turn the mesh"
        )
    x, y, z = (float(value) for value in 0.5 * (low + high))
    return ObjectMesh(file, scale, (x, y, z))


def hue_offset(scene: Scene) -> float:
    """Return the object's hue, 0..1 on the colour circle: how far the colours of other things are turned from red's."""
    return 0.0 if scene.object is None else (scene.object.hue / 360) % 1


def coloured(profile: Profile, scene: Scene) -> Profile:
    """Return the profile with the colours and the mass of the cell's object."""
    found = scene.object
    if found is None:
        return profile
    spans = {
        "block_hue": (found.hue_deg, "deg"),
        "block_saturation": (found.saturation, "ratio"),
        "block_value": (found.value, "ratio"),
    }
    ranges = dict(profile.ranges)
    for name, ((low, high), unit) in spans.items():
        # A profile that does not randomise the colour has the middle of the range.
        ends = (low, high) if name in profile.ranges else ((low + high) / 2,) * 2
        ranges[name] = Range(low=ends[0], high=ends[1], unit=unit)
    return profile.model_copy(update={"ranges": ranges})


def mass(scene: Scene) -> float:
    """Return the nominal mass of the object that the tasks move, kg."""
    return NOMINAL_MASS if scene.object is None else scene.object.mass


def in_cell(room: Room, scene: Scene) -> Room:
    """Return a room with the colours and the mass of the cell's object, and other colours that differ from it."""
    found = scene.object
    if found is None:
        return room
    spans = (found.hue_deg, found.saturation, found.value)
    drawn = zip(*((low, (low + high) / 2, high) for low, high in spans), strict=True)
    colours = tuple(colorsys.hsv_to_rgb((hue / 360) % 1, saturation, value) for hue, saturation, value in drawn)
    ratio, (low, high) = found.mass / NOMINAL_MASS, room.dynamics.block_mass
    others = tuple(turned(each, hue_offset(scene)) for each in room.other.colours)
    return room.model_copy(
        update={
            "block": room.block.model_copy(update={"colours": colours, "textures": ()}),
            "other": room.other.model_copy(update={"colours": others}),
            "dynamics": room.dynamics.model_copy(update={"block_mass": (ratio * low, ratio * high)}),
        }
    )


def turned(colour: Colour, offset: float) -> Colour:
    """Return a colour turned by `offset` on the colour circle."""
    if not offset:
        return colour
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    return colorsys.hsv_to_rgb((hue + offset) % 1, saturation, value)
