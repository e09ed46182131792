"""The twin: the same arms and tasks in MuJoCo, in a room that training never sees.

It has the interface of `pybullet_world.PybulletWorld` but other physics, drives, contacts, renderer, lens and delays. A
policy's score here is a sim-to-sim proxy for its score on an arm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlfp_ros.contract import CameraContract
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.mujoco_arm import THING_CONTACT, MujocoArm, add_drives, arm_spec, gear_fingers
from rlfp_ros.simulation.mujoco_headless import mujoco
from rlfp_ros.simulation.mujoco_room import FAR_AWAY, add_lights, add_materials, furnish
from rlfp_ros.simulation.randomization import Sample, stream
from rlfp_ros.simulation.room import Room
from rlfp_ros.simulation.room_camera import MujocoCamera
from rlfp_ros.simulation.scene import Scene
from rlfp_ros.simulation.tasks.task import Task
from rlfp_ros.simulation.tasks.task_scene import HAND_BEHIND_TOOL, Body
from rlfp_ros.simulation.ticked_world import DT, TickedWorld

MARKER_COLOUR = (0.05, 0.70, 0.22)  # rgb, 0..1: green, as the tasks document
MARKER_THICKNESS = 0.002  # m
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
        self.room, self.scene = room, scene
        self.faults = Faults()
        self._build()
        self.camera = MujocoCamera(contract, room.camera, self.model)

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
        number = self.model.body(self._things[body]).id
        return self.data.xpos[number].copy(), self.data.xquat[number][[1, 2, 3, 0]]

    def gripper_width(self) -> float:
        """True opening, m."""
        gripper = self.arm.gripper
        return 0.0 if gripper is None else gripper.width(self.data.qpos[self.arm_index.finger_positions])

    def contacts(self, body: Body) -> np.ndarray:
        """Points [N, 3] m, base frame, at which the arm touches a body now."""
        number = self.model.body(self._things[body]).id
        touching = []
        for contact in self.data.contact:
            bodies = {int(self.model.geom_bodyid[geom]) for geom in contact.geom}
            if number in bodies and bodies & self._arm_bodies:
                touching.append(contact.pos.copy())
        return np.array(touching).reshape(-1, 3)

    def add_block(self, size: tuple[float, float, float], studs: bool = False) -> Body:
        """Add a free box in the colour of the task's object; for a task's `build` only.

        `studs` makes it look like a LEGO brick; its collision shape stays the box.
        """
        name = f"block_{len(self._things)}"
        body = self._spec.worldbody.add_body(name=name, pos=[0.0, 0.3 * len(self._things), size[2] / 2])
        body.add_freejoint(name=name)
        body.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[extent / 2 for extent in size],
            material="block_0",
            mass=0.03,
            contype=THING_CONTACT,
            conaffinity=THING_CONTACT | 1,
            condim=4,
            friction=[0.7, 0.01, 0.001],
        )
        if studs:
            for x in (-0.25, 0.25):
                for y in (-0.25, 0.25):
                    body.add_geom(
                        name=f"{name}_stud_{x:+}{y:+}",
                        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
                        size=[0.15 * min(size[:2]), 0.07 * size[2], 0.0],
                        material="block_0",
                        mass=0.0,
                        pos=[x * size[0], y * size[1], 0.57 * size[2]],
                        contype=0,
                        conaffinity=0,
                    )
        self._things.append(name)
        return len(self._things) - 1

    def add_marker(self, radius: float) -> Body:
        """Add a flat disc without collision; `place` moves it."""
        name = f"marker_{len(self._things)}"
        body = self._spec.worldbody.add_body(name=name, mocap=True, pos=FAR_AWAY)
        body.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[radius, MARKER_THICKNESS / 2, 0.0],
            rgba=[*MARKER_COLOUR, 1.0],
            contype=0,
            conaffinity=0,
        )
        self._things.append(name)
        return len(self._things) - 1

    def place(self, body: Body, position: tuple[float, float, float], yaw: float = 0.0) -> None:
        """Move a body to a position in the base frame, at rest."""
        pose = [*position, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
        mocap = int(self.model.body_mocapid[self.model.body(self._things[body]).id])
        if mocap >= 0:
            self.data.mocap_pos[mocap], self.data.mocap_quat[mocap] = pose[:3], pose[3:]
        else:
            joint = self.model.joint(self._things[body]).id
            address, dof = self.model.jnt_qposadr[joint], self.model.jnt_dofadr[joint]
            self.data.qpos[address : address + 7], self.data.qvel[dof : dof + 6] = pose, 0
        mujoco.mj_forward(self.model, self.data)

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
        room = self.room
        self._spec = spec = arm_spec(self.arm)
        self._things: list[str] = []  # the task's bodies, by name
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
        block_bodies = [self.model.body(name).id for name in self._things if name.startswith("block")]
        self._block_geoms = [g for g in range(self.model.ngeom) if self.model.geom_bodyid[g] in block_bodies]
        self._block_bodies = block_bodies
        self._arm_bodies = {int(self.model.geom_bodyid[g]) for g in range(self.model.ngeom)} - {0, *block_bodies}
        self._geoms_of = {
            "arm": [g for g in range(self.model.ngeom) if self.model.geom_contype[g] == 1],
            "block": self._block_geoms,
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
        for body in self._block_bodies:
            ratio = drawn["block_mass"] / model.body_mass[body]
            model.body_mass[body] *= ratio
            model.body_inertia[body] *= ratio
        model.geom_friction[self._block_geoms, 0] = drawn["block_friction"]
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
        blocks = [self.body_pose(body)[0][:2] for body in range(len(self._things))]
        self._clutter: list[tuple[int, np.ndarray, np.ndarray, float]] = []
        clutter = self.room.clutter
        for number in range(clutter.count):
            body, geom = model.body(f"clutter_{number}"), model.geom(f"clutter_{number}").id
            shade = rng.uniform(0.1, 0.9, 3)
            shade[0] = min(shade[0], shade[1:].max())  # only the task's object is red
            model.geom_rgba[geom] = [*shade, 1.0]
            while True:
                place = rng.uniform(*TABLE_REGION)
                if all(np.linalg.norm(place - block) > clutter.clearance for block in blocks):
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
