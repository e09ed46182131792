"""The bodies of a task in MuJoCo: blocks, markers and articulated objects."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from rlfp_ros.simulation.bullet_bodies import MARKER_THICKNESS, points_along
from rlfp_ros.simulation.cell_object import NOMINAL_MASS, ObjectMesh
from rlfp_ros.simulation.mujoco_arm import ARM_CONTACT, THING_CONTACT
from rlfp_ros.simulation.mujoco_headless import mujoco
from rlfp_ros.simulation.mujoco_room import FAR_AWAY
from rlfp_ros.simulation.randomization import Sample
from rlfp_ros.simulation.tasks.task_scene import Body, Hue, Plate, Slider, Vector

MARKER_COLOUR = (0.05, 0.70, 0.22)  # rgb, 0..1: green, as the tasks document
OBJECT_MESH = "cell_object"  # name of the asset
FRICTION = (0.7, 0.01, 0.001)  # sliding, spinning, rolling, until an episode sets the first
MATERIALS = {Hue.OBJECT: "block_0", Hue.OTHER: "other_0"}  # until an episode chooses


class MujocoBodies:
    """Adds a task's bodies to a model, and moves and queries them once it is compiled (`bind`)."""

    def __init__(self, spec: mujoco.MjSpec, mesh: ObjectMesh | None = None) -> None:
        self._spec, self._mesh = spec, mesh
        if mesh is not None:
            spec.add_mesh(
                name=OBJECT_MESH,
                file=str(mesh.file.resolve()),
                scale=[mesh.scale] * 3,
            )
        self._names: list[str] = []  # of all bodies
        self._hues: dict[str, Hue] = {}  # of the bodies that have a colour of the episode's
        self._blocks: list[str] = []
        self._sliders: dict[Slider, tuple[float, float]] = {}  # with the ends on its x axis, rear and open handle, m

    @property
    def all(self) -> tuple[Body, ...]:
        """All bodies."""
        return tuple(range(len(self._names)))

    def add_block(self, size: Vector, studs: bool, hue: Hue) -> Body:
        """Add a free box; `studs` makes it look like a LEGO brick, but its collision shape stays the box."""
        name = f"block_{len(self._names)}"
        body = self._spec.worldbody.add_body(name=name, pos=[0.0, 0.3 * len(self._names), size[2] / 2])
        body.add_freejoint(name=name)
        if self._mesh is not None and hue is Hue.OBJECT:
            self._add_mesh(body, name, self._mesh)
        else:
            self._add_box(body, name, Plate((0.0, 0.0, 0.0), size), hue, mass=NOMINAL_MASS)
        if studs and (self._mesh is None or hue is not Hue.OBJECT):
            for x in (-0.25, 0.25):
                for y in (-0.25, 0.25):
                    body.add_geom(
                        name=f"{name}_stud_{x:+}{y:+}",
                        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
                        size=[0.15 * min(size[:2]), 0.07 * size[2], 0.0],
                        material=MATERIALS[hue],
                        mass=0.0,
                        pos=[x * size[0], y * size[1], 0.57 * size[2]],
                        contype=0,
                        conaffinity=0,
                    )
        self._blocks.append(name)
        return self._number(name, hue)

    def add_marker(self, radius: float) -> Body:
        """Add a flat disc without collision."""
        name = f"marker_{len(self._names)}"
        body = self._spec.worldbody.add_body(name=name, mocap=True, pos=FAR_AWAY)
        body.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[radius, MARKER_THICKNESS / 2, 0.0],
            rgba=[*MARKER_COLOUR, 1.0],
            contype=0,
            conaffinity=0,
        )
        return self._number(name)

    def add_slider(
        self, housing: Sequence[Plate], drawer: Sequence[Plate], handle: Sequence[Plate], travel: float
    ) -> Slider:
        """Add an articulated object."""
        names = [f"{part}_{len(self._names)}" for part in ("housing", "drawer", "handle")]
        fixed = self._spec.worldbody.add_body(name=names[0], mocap=True, pos=FAR_AWAY)
        moving = fixed.add_body(name=names[1])
        moving.add_joint(
            name=names[1], type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[1, 0, 0], range=[0.0, travel], limited=True
        )
        grip = moving.add_body(name=names[2])
        hues = (Hue.OTHER, Hue.OTHER, Hue.OBJECT)
        for body, name, plates, hue in zip((fixed, moving, grip), names, (housing, drawer, handle), hues, strict=True):
            for number, plate in enumerate(plates):
                self._add_box(body, f"{name}_{number}", plate, hue)
        self._spec.add_exclude(bodyname1=names[0], bodyname2=names[1])
        self._spec.add_exclude(bodyname1=names[0], bodyname2=names[2])
        slider = Slider(*(self._number(name, hue) for name, hue in zip(names, hues, strict=True)))
        rear = min(plate.middle[0] - plate.size[0] / 2 for plate in housing)
        self._sliders[slider] = rear, travel
        return slider

    def _add_box(self, body: mujoco.MjsBody, name: str, plate: Plate, hue: Hue, mass: float = 0.05) -> None:
        body.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=list(plate.middle),
            size=[extent / 2 for extent in plate.size],
            material=MATERIALS[hue],
            mass=mass,
            contype=THING_CONTACT,
            conaffinity=THING_CONTACT | ARM_CONTACT,
            condim=4,
            friction=list(FRICTION),
        )

    def _add_mesh(self, body: mujoco.MjsBody, name: str, mesh: ObjectMesh) -> None:
        """Add the object's mesh; it collides as its convex hull."""
        body.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=OBJECT_MESH,
            pos=[-mesh.scale * value for value in mesh.middle],
            material=MATERIALS[Hue.OBJECT],
            mass=NOMINAL_MASS,
            contype=THING_CONTACT,
            conaffinity=THING_CONTACT | ARM_CONTACT,
            condim=4,
            friction=list(FRICTION),
        )

    def _number(self, name: str, hue: Hue | None = None) -> Body:
        self._names.append(name)
        if hue is not None:
            self._hues[name] = hue
        return len(self._names) - 1

    # --- in the compiled model --------------------------------------------------------------------------------------

    def bind(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Look the bodies up in the compiled model."""
        self._model, self._data = model, data
        self._ids = [model.body(name).id for name in self._names]
        self._block_ids = [model.body(name).id for name in self._blocks]
        self._joints = [model.joint(self._names[slider.drawer]).id for slider in self._sliders]
        self._drawer_ids = [self._ids[slider.drawer] for slider in self._sliders]
        coloured = [name for name in self._names if name in self._hues]
        self._geoms = {name: self._geoms_of(model.body(name).id) for name in coloured}
        self._touched = [geom for geoms in self._geoms.values() for geom in geoms]

    def _geoms_of(self, body: int) -> list[int]:
        return [geom for geom in range(self._model.ngeom) if self._model.geom_bodyid[geom] == body]

    def place(self, body: Body, position: Vector, yaw: float) -> None:
        """Move a body to a position in the base frame, at rest."""
        model, data = self._model, self._data
        pose = [*position, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
        mocap = int(model.body_mocapid[self._ids[body]])
        if mocap >= 0:
            data.mocap_pos[mocap], data.mocap_quat[mocap] = pose[:3], pose[3:]
        else:
            joint = model.joint(self._names[body]).id
            address, dof = model.jnt_qposadr[joint], model.jnt_dofadr[joint]
            data.qpos[address : address + 7], data.qvel[dof : dof + 6] = pose, 0
        mujoco.mj_forward(model, data)

    def slide(self, slider: Slider, opening: float) -> None:
        """Open a slider within its limits, at rest."""
        opening = min(max(opening, 0.0), self._sliders[slider][1])
        joint = self._model.joint(self._names[slider.drawer]).id
        self._data.qpos[self._model.jnt_qposadr[joint]] = opening
        self._data.qvel[self._model.jnt_dofadr[joint]] = 0.0
        mujoco.mj_forward(self._model, self._data)

    def pose(self, body: Body) -> tuple[np.ndarray, np.ndarray]:
        """Return position [3] m and quaternion xyzw [4], base frame."""
        number = self._ids[body]
        return self._data.xpos[number].copy(), self._data.xquat[number][[1, 2, 3, 0]]

    def contacts(self, body: Body, arm: Collection[int]) -> np.ndarray:
        """Return the points [N, 3] m, base frame, at which one of the arm's bodies touches a body."""
        touching = []
        for contact in self._data.contact:
            bodies = {int(self._model.geom_bodyid[geom]) for geom in contact.geom}
            if self._ids[body] in bodies and not bodies.isdisjoint(arm):
                touching.append(contact.pos.copy())
        return np.array(touching).reshape(-1, 3)

    def set_dynamics(self, drawn: Sample) -> None:
        """Apply an episode's masses and friction."""
        model = self._model
        for bodies, name in ((self._block_ids, "block_mass"), (self._drawer_ids, "slider_mass")):
            for body in bodies:
                ratio = drawn[name] / model.body_mass[body]
                model.body_mass[body] *= ratio
                model.body_inertia[body] *= ratio
        for joint in self._joints:
            dof = model.jnt_dofadr[joint]
            model.dof_frictionloss[dof], model.dof_damping[dof] = drawn["slider_friction"], drawn["slider_damping"]
        model.geom_friction[self._touched, 0] = drawn["block_friction"]

    def geoms(self, hue: Hue) -> list[list[int]]:
        """Return the geoms of each body with this kind of colour."""
        return [geoms for name, geoms in self._geoms.items() if self._hues[name] is hue]

    def clear_points(self) -> list[np.ndarray]:
        """Return points [3] m that clutter keeps away from, so that it never hides an object."""
        parts = {part for slider in self._sliders for part in (slider.housing, slider.drawer, slider.handle)}
        points = [self.pose(body)[0] for body in self.all if body not in parts]
        for slider, (rear, travel) in self._sliders.items():
            points += points_along(*self.pose(slider.housing), rear, travel)
        return points
