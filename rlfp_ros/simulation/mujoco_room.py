"""The room around the twin's arm as MuJoCo elements: materials, furniture, clutter and lamps."""

from __future__ import annotations

import numpy as np

from rlfp_ros.simulation.mujoco_arm import THING_CONTACT
from rlfp_ros.simulation.mujoco_headless import mujoco
from rlfp_ros.simulation.randomization import stream
from rlfp_ros.simulation.room import Room, Surface, load_texture
from rlfp_ros.simulation.scene import Scene

FAR_AWAY = (0.0, 0.0, -5.0)  # m, place of clutter that an episode does not use
FLOOR_HEIGHT = -0.75  # m below the table's top
WALLS = (((-1.6, 0.0), (0.0, 1.0)), ((0.0, -1.8), (1.0, 0.0)))  # m: middle, direction along the wall


def add_materials(spec: mujoco.MjSpec, name: str, surface: Surface) -> int:
    """Add a material for every texture and colour that an episode may choose; return their number."""
    number = 0
    for texture in surface.textures or ("",):
        if texture:
            image = load_texture(texture)
            added = spec.add_texture(
                name=f"{name}_{number}",
                type=mujoco.mjtTexture.mjTEXTURE_2D,
                nchannel=3,
                width=image.shape[1],
                height=image.shape[0],
            )
            added.data = image.tobytes()
            texture = added.name
        for colour in surface.colours:
            material = spec.add_material(
                name=f"{name}_{number}",
                rgba=[*colour, 1.0],
                specular=surface.specular,
                shininess=surface.shininess,
                reflectance=surface.reflectance,
                texrepeat=[surface.repeat, surface.repeat],
            )
            if texture:
                material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = texture
            number += 1
    return number


def furnish(spec: mujoco.MjSpec, room: Room, scene: Scene) -> dict[str, list[str]]:
    """Add table, floor, walls and clutter; return the names of the geoms of each surface."""
    world, box, visual_only = spec.worldbody, mujoco.mjtGeom.mjGEOM_BOX, {"contype": 0, "conaffinity": 0}
    table = scene.table
    world.add_geom(
        name="table",
        type=box,
        pos=table.centre,
        size=[extent / 2 for extent in table.size],
        material="table_0",
        contype=THING_CONTACT,
        conaffinity=THING_CONTACT | 1,
    )
    for number, obstacle in enumerate(scene.obstacles):
        x, y, z, w = obstacle.pose.quaternion_xyzw
        world.add_geom(
            name=f"obstacle_{number}",
            type=box,
            pos=obstacle.pose.xyz,
            quat=[w, x, y, z],
            size=[extent / 2 for extent in obstacle.size],
            material="wall_0",
            contype=THING_CONTACT,
            conaffinity=THING_CONTACT | 1,
        )
    world.add_geom(
        name="floor", type=box, pos=[0, 0, FLOOR_HEIGHT], size=[3, 3, 0.01], material="floor_0", **visual_only
    )
    walls = []
    for number, (middle, along) in enumerate(WALLS):
        walls.append(f"wall_{number}")
        normal = (along[1], -along[0], 0.0)
        world.add_geom(
            name=walls[-1],
            type=box,
            pos=[*middle, FLOOR_HEIGHT + 1.5],
            size=[3, 1.5, 0.01],
            material="wall_0",
            # x along the wall, y up, z out of it: a texture lies in a box's x and y
            quat=_quaternion(np.column_stack([(*along, 0.0), (0.0, 0.0, 1.0), normal])),
            **visual_only,
        )
    clutter, rng = room.clutter, stream(0, f"clutter {room.name}")
    shapes = (mujoco.mjtGeom.mjGEOM_SPHERE, box, mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_ELLIPSOID)
    for number in range(clutter.count):
        body = world.add_body(name=f"clutter_{number}", mocap=True, pos=FAR_AWAY)
        size = rng.uniform(*clutter.size, 3)
        body.add_geom(
            name=f"clutter_{number}", type=shapes[number % len(shapes)], size=size, rgba=[1, 1, 1, 1], **visual_only
        )
    return {"table": ["table"], "floor": ["floor"], "wall": walls}


def add_lights(spec: mujoco.MjSpec, room: Room) -> None:
    """Add the room's lamps; an episode moves them."""
    for number, light in enumerate(room.lights):
        kind = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL if light.directional else mujoco.mjtLightType.mjLIGHT_SPOT
        direction = np.subtract(light.towards, light.position)
        lamp = spec.worldbody.add_light(name=f"lamp_{number}", pos=light.position, dir=direction, type=kind)
        lamp.diffuse, lamp.castshadow = light.colour, light.shadows
        lamp.specular, lamp.ambient = [light.specular] * 3, [0.0, 0.0, 0.0]
        lamp.cutoff, lamp.exponent = 80.0, 1.0


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """Return w, x, y, z of a 3 x 3 rotation matrix, in MuJoCo's order."""
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation, dtype=float).ravel())
    return quaternion
