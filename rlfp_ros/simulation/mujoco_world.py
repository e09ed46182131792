"""The twin: the same arms and tasks in MuJoCo, in a room that training never sees.

It has the interface of `pybullet_world.PybulletWorld` but other physics, drives, contacts, renderer, lens and delays. A
policy's score here is a sim-to-sim proxy for its score on an arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlfp_ros.contract import CameraContract
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.cell_camera import cell_camera
from rlfp_ros.simulation.cell_object import hue_offset, in_cell, object_mesh, turned
from rlfp_ros.simulation.mujoco_arm import ARM_CONTACT, MujocoArm, add_drives, arm_spec, gear_fingers
from rlfp_ros.simulation.mujoco_bodies import MujocoBodies
from rlfp_ros.simulation.mujoco_headless import mujoco
from rlfp_ros.simulation.mujoco_room import add_lights, add_materials, furnish
from rlfp_ros.simulation.randomization import Sample, stream
from rlfp_ros.simulation.room import Room
from rlfp_ros.simulation.room_camera import MujocoCamera
from rlfp_ros.simulation.scene import Scene
from rlfp_ros.simulation.tasks.task import Task
from rlfp_ros.simulation.tasks.task_scene import HAND_BEHIND_TOOL, Body, Hue, Plate, Slider, Vector
from rlfp_ros.simulation.ticked_world import DT, TickedWorld

TABLE_REGION = ((0.15, -0.45), (0.85, 0.45))  # m, for clutter


@dataclass
class Faults:
    """Simulated hardware faults. They can be changed at any time."""

    dropped_frames: float = 0.0  # probability, in addition to the room's
    stiffness: float = 1.0  # fraction of the drives' stiffness; below 1 the arm has a tracking error
    stalled_joint: str = ""  # a joint that does not move


class MujocoWorld(TickedWorld):
    """One arm, one task, one camera in a room. Call `reset(seed)` before anything else.

    `camera` is the bundle's; the room's own camera stands near its place. Raises ConfigurationError if the arm's
    URDF does not suit MuJoCo, or OpenGL is missing.
    """

    sensor_stream = "room joints"

    def __init__(self, arm: Arm, task: Task, room: Room, scene: Scene, camera: CameraContract | None = None) -> None:
        contract = camera or scene.camera.contract()
        task.fit_to(arm)
        super().__init__(arm, task, contract.rate_hz)
        self.room, self.scene = in_cell(room, scene), scene
        self.faults = Faults()
        self._build()
        self.camera = MujocoCamera(contract, room.camera, self.model, cell_camera(arm))

    @property
    def calibration(self) -> CameraModel | None:
        """The live camera as described by its camera_info."""
        return self.camera.model

    def close(self) -> None:
        """Free the renderer's memory."""
        self.camera.close()

    # --- queries of tasks and teachers ------------------------------------------------------------------------------

    def tool_position(self) -> np.ndarray:
        """True tool centre point, [3] m, base frame."""
        return np.array(self.data.xpos[self.arm_index.tool])

    def hand_position(self) -> np.ndarray:
        """True point [3] m, base frame, `HAND_BEHIND_TOOL` behind the tool centre point."""
        direction = self.data.xmat[self.arm_index.tool].reshape(3, 3)[:, 2]
        return self.tool_position() - HAND_BEHIND_TOOL * direction

    def tool_velocity(self) -> np.ndarray:
        """True velocity of the tool centre point, [3] m/s, base frame."""
        velocity = np.zeros(6)
        mujoco.mj_objectVelocity(self.model, self.data, mujoco.mjtObj.mjOBJ_XBODY, self.arm_index.tool, velocity, 0)
        return velocity[3:]

    def body_pose(self, body: Body) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] m and quaternion xyzw [4], base frame."""
        return self.bodies.pose(body)

    def gripper_width(self) -> float:
        """True opening, m."""
        gripper = self.arm.gripper
        return 0.0 if gripper is None else gripper.width(self.data.qpos[self.arm_index.finger_positions])

    def contacts(self, body: Body) -> np.ndarray:
        """Points [N, 3] m, base frame, at which the arm touches a body now."""
        return self.bodies.contacts(body, self._arm_bodies)

    @property
    def task_bodies(self) -> tuple[Body, ...]:
        """All bodies that the task added."""
        return self.bodies.all

    def add_block(self, size: Vector, studs: bool = False, hue: Hue = Hue.OBJECT) -> Body:
        """Add a free box, for a task's `build` only; `studs` makes it look like a LEGO brick."""
        return self.bodies.add_block(size, studs, hue)

    def add_marker(self, radius: float) -> Body:
        """Add a flat disc without collision; `place` moves it."""
        return self.bodies.add_marker(radius)

    def add_slider(
        self, housing: Sequence[Plate], drawer: Sequence[Plate], handle: Sequence[Plate], travel: float
    ) -> Slider:
        """Add an object with a prismatic joint that opens from 0 to `travel` m."""
        return self.bodies.add_slider(housing, drawer, handle, travel)

    def place(self, body: Body, position: Vector, yaw: float = 0.0) -> None:
        """Move a body to a position in the base frame, at rest."""
        self.bodies.place(body, position, yaw)

    def slide(self, slider: Slider, opening: float) -> None:
        """Open a slider by `opening` m, at rest."""
        self.bodies.slide(slider, opening)

    def move_arm(self, positions: np.ndarray, gripper_width: float) -> None:
        """Teleport the arm, at rest; positions [J] rad, width in m."""
        index, data = self.arm_index, self.data
        data.qpos[index.positions] = positions
        data.qvel[index.dofs] = 0
        if self.arm.gripper is not None:
            data.qpos[index.finger_positions] = self.arm.gripper.positions(gripper_width)
            data.qvel[index.finger_dofs] = 0
        self._width_target = self._width_setpoint = gripper_width
        self._target = np.array(positions, dtype=float), np.zeros(len(index.positions))
        self._stalled_at: float | None = None
        self.arm_controller.reset(np.asarray(positions, dtype=float))
        mujoco.mj_forward(self.model, data)
        self.episode_state.measured = None

    def render(self) -> np.ndarray:
        """Return an image of the present state, uint8 [H, W, 3] rgb."""
        self._move_clutter()
        mujoco.mj_kinematics(self.model, self.data)
        return self.camera.expose(self.data)

    # --- building ---------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        room, self._hue_offset = self.room, hue_offset(self.scene)
        self._spec = spec = arm_spec(self.arm)
        self.bodies = MujocoBodies(spec, object_mesh(self.scene))
        spec.option.timestep = DT / room.dynamics.substeps
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
        spec.visual.quality.shadowsize = 1024
        spec.visual.quality.offsamples = 0  # sampling takes twice the time; lens, blur and resizing smooth enough
        spec.visual.global_.offwidth = spec.visual.global_.offheight = 2048
        spec.visual.map.znear, spec.visual.map.zfar = 0.02, 20.0
        spec.visual.headlight.active = True
        spec.visual.headlight.diffuse = spec.visual.headlight.specular = [0.0, 0.0, 0.0]
        self._materials = {
            name: add_materials(spec, name, getattr(room, name)) for name in ("table", "floor", "wall", "arm", "block")
        }
        self._other_materials = add_materials(spec, "other", room.other)
        for geom in spec.geoms:
            geom.material = "arm_0"
        self._furniture = furnish(spec, room, self.scene)
        add_drives(spec, self.arm)
        gear_fingers(spec, self.arm)
        self.task.build(self)
        add_lights(spec, room)
        spec.worldbody.add_camera(name=MujocoCamera.NAME)
        try:
            self.model = spec.compile()
        except ValueError as error:
            raise ConfigurationError(f"{self.arm.urdf} in room {room.name}: MuJoCo says {error}") from None
        self.data = mujoco.MjData(self.model)
        self.arm_index = MujocoArm(self.arm, self.model)
        self.bodies.bind(self.model, self.data)
        arm_geoms = [g for g in range(self.model.ngeom) if self.model.geom_contype[g] == ARM_CONTACT]
        self._arm_bodies = {int(self.model.geom_bodyid[geom]) for geom in arm_geoms}
        self._geoms_of = {
            "arm": arm_geoms,
            "block": [geom for geoms in self.bodies.geoms(Hue.OBJECT) for geom in geoms],
            **{name: [self.model.geom(geom).id for geom in geoms] for name, geoms in self._furniture.items()},
        }

    # --- an episode -------------------------------------------------------------------------------------------------

    def _draw(self, seed: int) -> Sample:
        return self.room.draw(seed)

    def _prepare(self, seed: int) -> None:
        drawn, model = self.sample, self.model
        mujoco.mj_resetData(model, self.data)
        dofs = self.arm_index.dofs
        model.dof_frictionloss[dofs], model.dof_damping[dofs] = drawn["friction"], drawn["damping"]
        model.dof_armature[dofs] = drawn["armature"]
        self.bodies.set_dynamics(drawn)
        model.body_gravcomp[self.arm_index.bodies] = drawn["gravity_compensation"]
        mujoco.mj_setConst(model, self.data)
        limits, offset = self.arm.limits, self.room.dynamics.home_offset
        start = np.array(self.arm.home) + stream(seed, "room home").uniform(-offset, offset, len(self.arm.home))
        self.move_arm(np.clip(start, limits.lower, limits.upper), self._starting_width())
        self._tune()
        self.task.reset(self, stream(seed, "task"))
        self._dress(seed)
        mujoco.mj_forward(model, self.data)
        self.camera.reset(drawn)

    def _starting_width(self) -> float:
        gripper = self.arm.gripper
        if gripper is None:
            return 0.0
        return gripper.closed_width if self.task.starts_closed else gripper.open_width

    def _tune(self) -> None:
        """Set stiffness [J] N m/rad and damping [J] of the position loop from bandwidth and each joint's inertia."""
        inertia = np.zeros((self.model.nv, self.model.nv))
        mujoco.mj_fullM(self.model, self.data, inertia)
        inertias = np.diag(inertia)[self.arm_index.dofs]
        rate = 2 * np.pi * self.sample["bandwidth_hz"]
        self._stiffness, self._damping = inertias * rate**2, 2 * self.sample["damping_ratio"] * inertias * rate

    def _dress(self, seed: int) -> None:
        """Choose materials, lamps and clutter of the episode."""
        model, rng = self.model, stream(seed, "room appearance")
        for name, count in self._materials.items():
            material = model.material(f"{name}_{int(rng.integers(count))}").id
            model.geom_matid[self._geoms_of[name]] = material
        model.vis.headlight.ambient[:] = self.sample["ambient"]
        for number, light in enumerate(self.room.lights):
            position = np.asarray(light.position) + rng.uniform(-light.wander, light.wander, 3)
            direction = np.asarray(light.towards) - position
            model.light_pos[number], model.light_dir[number] = position, direction / np.linalg.norm(direction)
        others = stream(seed, "room other").permutation(self._other_materials)
        for number, geoms in enumerate(self.bodies.geoms(Hue.OTHER)):
            model.geom_matid[geoms] = model.material(f"other_{others[number % len(others)]}").id
        clear_of = [point[:2] for point in self.bodies.clear_points()]
        self._clutter: list[tuple[int, np.ndarray, np.ndarray, float]] = []
        clutter = self.room.clutter
        for number in range(clutter.count):
            body, geom = model.body(f"clutter_{number}"), model.geom(f"clutter_{number}").id
            shade = rng.uniform(0.1, 0.9, 3)
            shade[0] = min(shade[0], shade[1:].max())  # not red, so that turned it has not the object's hue
            model.geom_rgba[geom] = [*turned(tuple(shade), self._hue_offset), 1.0]
            while True:
                place = rng.uniform(*TABLE_REGION)
                if all(np.linalg.norm(place - point) > clutter.clearance for point in clear_of):
                    break
            angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(*clutter.speed)
            swing = 0.04 * np.array([np.cos(angle), np.sin(angle), 0.0])
            rest = np.array([*place, float(model.geom_size[geom][2] or model.geom_size[geom][0])])
            self._clutter.append((int(body.mocapid[0]), rest, swing, speed / 0.04))

    def _move_clutter(self) -> None:
        elapsed = (self.tick - self.episode_state.start_tick) * DT
        for mocap, rest, swing, rate in self._clutter:
            self.data.mocap_pos[mocap] = rest + swing * np.sin(rate * elapsed)

    # --- a tick -----------------------------------------------------------------------------------------------------

    def _simulate(self, setpoint: tuple[np.ndarray, np.ndarray] | None, gripper_width: float | None) -> None:
        if setpoint is not None:
            self._target = setpoint
        gripper, index, data, model = self.arm.gripper, self.arm_index, self.data, self.model
        self.extra_dropped_frames = self.faults.dropped_frames
        self._set_gains(self._stiffness * self.faults.stiffness, self._damping * np.sqrt(self.faults.stiffness))
        position, velocity = self._target
        # MuJoCo's damping acts on the joint's speed. This shift makes it act on the speed error, as in a real drive.
        shift = self._damping / (self._stiffness * np.sqrt(self.faults.stiffness)) - DT / 2
        data.ctrl[index.drives] = position + shift * velocity
        if gripper is not None:
            if gripper_width is not None:
                self._width_target = float(np.clip(gripper_width, gripper.closed_width, gripper.open_width))
            step = gripper.velocity * DT
            self._width_setpoint += min(max(self._width_target - self._width_setpoint, -step), step)
            data.ctrl[index.finger_drives] = gripper.positions(self._width_setpoint)
        stalled = self._stalled()
        mujoco.mj_step(model, data, self.room.dynamics.substeps)
        if stalled is not None:
            data.qpos[index.positions[stalled]], data.qvel[index.dofs[stalled]] = self._stalled_at, 0.0

    def _stalled(self) -> int | None:
        """Return the stalled joint, or None; store its position when the stall begins."""
        name = self.faults.stalled_joint
        if not name:
            self._stalled_at = None
            return None
        joint = self.arm.joint_names.index(name)
        if self._stalled_at is None:
            self._stalled_at = float(self.data.qpos[self.arm_index.positions[joint]])
        return joint

    def _set_gains(self, stiffness: np.ndarray, damping: np.ndarray) -> None:
        drives, model = self.arm_index.drives, self.model
        model.actuator_gainprm[drives, 0] = stiffness
        model.actuator_biasprm[drives, 1], model.actuator_biasprm[drives, 2] = -stiffness, -damping

    def _measure(self) -> JointState:
        index, data, noise = self.arm_index, self.data, self.sample["joint_noise"]
        positions, velocities = data.qpos[index.positions].copy(), data.qvel[index.dofs].copy()
        if noise > 0:
            positions += self.episode_state.sensors.normal(0, noise, len(positions))
            velocities += self.episode_state.sensors.normal(0, 10 * noise, len(positions))
        torque = data.qfrc_actuator[index.dofs] + data.qfrc_gravcomp[index.dofs]
        return JointState(self.stamp_ns, positions, velocities, torque, self.gripper_width())
