"""The PyBullet world: one arm, one task and a camera on a table, stepped in ticks of 1/240 s.

The Gymnasium environment and the simulator node both run this class. For each tick the caller takes the frames that are
due (`delivered_frames`), reads the joints (`joint_state`), and gives the command of that tick (`step`). Every random
number of an episode comes from its seed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np

from rlfp_ros.contract import CameraContract
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.schema import Pose
from rlfp_ros.simulation.bullet import connect
from rlfp_ros.simulation.bullet_arm import load_bullet_arm
from rlfp_ros.simulation.bullet_bodies import BulletBodies
from rlfp_ros.simulation.bullet_drive import JointMotors, PositionMotors, TorqueDrive, drive_parameters
from rlfp_ros.simulation.camera import Camera
from rlfp_ros.simulation.cell_object import coloured, mass, object_mesh
from rlfp_ros.simulation.dressing import Dressing
from rlfp_ros.simulation.randomization import Profile, Sample, per_joint, sample, stream
from rlfp_ros.simulation.scene import Scene
from rlfp_ros.simulation.scene_renderer import SceneRenderer
from rlfp_ros.simulation.tasks.task import Task
from rlfp_ros.simulation.tasks.task_scene import HAND_BEHIND_TOOL, Body, Hue, Plate, Slider, Vector
from rlfp_ros.simulation.ticked_world import DT, TICKS_PER_SECOND, TickedWorld
from rlfp_ros.simulation.world_state import Setpoint, TickCommand, WorldState


class PybulletWorld(TickedWorld):
    """One arm, one task, one camera. Call `reset(seed)` before anything else.

    Parameters
    ----------
    arm, task, scene
        The contents of the world.
    profile
        The randomisation of each episode.
    camera
        The image that the policy expects; by default the scene's.
    texture_pool
        Selects the textures of the profile's set, see `Dressing`.

    Raises
    ------
    ConfigurationError
        If arm, URDF and task do not fit each other.
    """

    sensor_stream = "joints"

    def __init__(
        self,
        arm: Arm,
        task: Task,
        profile: Profile,
        scene: Scene,
        camera: CameraContract | None = None,
        texture_pool: int = 0,
    ) -> None:
        self.camera = Camera(camera or scene.camera.contract())
        super().__init__(arm, task, self.camera.contract.rate_hz)
        profile.check_arm(arm)
        self.profile, self.scene = coloured(profile, scene), scene
        self.blind = False  # if True, images are black and take no time, for learning from states
        # Whether anything looks at the image of a stamp, ns; any other image is not drawn, and the last one stays.
        self.is_seen: Callable[[int], bool] = lambda stamp_ns: True
        self.client = connect()
        self._reset_positions: np.ndarray | None = None
        self._commands: list[TickCommand] = []
        self._torque_drive: TorqueDrive | None = None  # made when an episode first needs it
        self._build(texture_pool)

    # --- the life of an episode -------------------------------------------------------------------------------------

    def reset(self, seed: int, positions: np.ndarray | None = None) -> Sample:
        """Start an episode, at home or at `positions` [J] rad.

        Time continues by a few ticks: stamps never repeat and never jump back.
        """
        self._reset_positions = positions
        return super().reset(seed)

    def save(self) -> WorldState:
        """Return the full state at this tick, between two steps; `restore` returns to it, bit for bit."""
        return WorldState(
            sample=self.sample,
            positions=self._reset_positions,
            tick=self.tick,
            commands=tuple(self._commands),
            episode=copy.deepcopy(self.episode_state),
            controller=copy.deepcopy(self.arm_controller),
            electronics=copy.deepcopy(self.camera.electronics),
            task=copy.deepcopy(self.task.state),
        )

    def restore(self, state: WorldState) -> None:
        """Return to a state that was saved here or in an equal world. Stamps go back too.

        Repeats the episode's commands without images, so it takes as long as the physics since the reset. Calls of
        `place` and `move_arm` since then are not repeated.
        """
        self.reset(state.sample.seed, state.positions)
        for setpoint, width in state.commands:
            self._simulate(setpoint, width)
        self.tick = state.tick
        self.episode_state = copy.deepcopy(state.episode)
        self.arm_controller = copy.deepcopy(state.controller)
        self.camera.electronics = copy.deepcopy(state.electronics)
        self.task.state = copy.deepcopy(state.task)

    def close(self) -> None:
        """Free the physics server's memory."""
        if self.client.isConnected():
            self.client.disconnect()

    @property
    def calibration(self) -> CameraModel | None:
        """Always None: perception uses the bundle's camera, and any deviation from it is randomisation."""
        return None

    # --- queries of tasks and teachers ------------------------------------------------------------------------------

    def tool_position(self) -> np.ndarray:
        """True tool centre point, [3] m, base frame."""
        return np.array(self.client.getLinkState(self.arm_body, self._tool, computeForwardKinematics=1)[4])

    def hand_position(self) -> np.ndarray:
        """True point [3] m, base frame, `HAND_BEHIND_TOOL` behind the tool centre point: a second point on the arm."""
        state = self.client.getLinkState(self.arm_body, self._tool, computeForwardKinematics=1)
        direction = np.array(self.client.getMatrixFromQuaternion(state[5])).reshape(3, 3)[:, 2]
        return np.array(state[4]) - HAND_BEHIND_TOOL * direction

    def tool_velocity(self) -> np.ndarray:
        """True velocity of the tool centre point, [3] m/s, base frame."""
        return np.array(self.client.getLinkState(self.arm_body, self._tool, 1, computeForwardKinematics=1)[6])

    def body_pose(self, body: Body) -> tuple[np.ndarray, np.ndarray]:
        """True position [3] m and quaternion xyzw [4], base frame."""
        return self.bodies.pose(body)

    def contacts(self, body: Body) -> np.ndarray:
        """Points [N, 3] m, base frame, at which the arm touches a body now."""
        return self.bodies.contacts(body, self.arm_body)

    def keypoints(self) -> np.ndarray:
        """Return the task's keypoints in the newest image, on the plane z = 1 of the contract's camera, [N, 2]."""
        intrinsics = self.camera.contract.intrinsics
        pixels = self.camera.project(self.task.keypoint_positions(self))
        return (pixels - (intrinsics.cx, intrinsics.cy)) / (intrinsics.fx, intrinsics.fy)

    def gripper_width(self) -> float:
        """True opening, m."""
        fingers = self.client.getJointStates(self.arm_body, self._fingers) if self._fingers else ()
        return self._width([state[0] for state in fingers])

    def _width(self, positions: Sequence[float]) -> float:
        return 0.0 if self.arm.gripper is None else self.arm.gripper.width(positions)

    # --- building blocks of tasks -----------------------------------------------------------------------------------

    @property
    def task_bodies(self) -> tuple[Body, ...]:
        """All bodies that the task added."""
        return self.bodies.all

    def add_block(self, size: Vector, studs: bool = False, hue: Hue = Hue.OBJECT) -> Body:
        """Add a free box with the sampled mass and friction; `studs` makes it look like a LEGO brick."""
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
        if (body, -1) in self.bodies.still:
            self.renderer.forget_backdrop()

    def slide(self, slider: Slider, opening: float) -> None:
        """Open a slider by `opening` m, at rest."""
        self.bodies.slide(slider, opening)

    def move_arm(self, positions: np.ndarray, gripper_width: float) -> None:
        """Teleport the arm, at rest; positions [J] rad, width in m."""
        for joint, position in zip(self._joints, positions, strict=True):
            self.client.resetJointState(self.arm_body, joint, position, 0.0)
        if self.arm.gripper is not None:
            for finger, position in zip(self._fingers, self.arm.gripper.positions(gripper_width), strict=True):
                self.client.resetJointState(self.arm_body, finger, position, 0.0)
        self.arm_controller.reset(np.asarray(positions, dtype=float))
        self.episode_state.measured = None

    def render(self) -> np.ndarray:
        """Return an image of the present state, uint8 [H, W, 3], outside the camera's schedule."""
        return self.camera.expose(self._render())

    def depth(self) -> np.ndarray:
        """Return the depth of the last image rendered, float32 [H, W] m along the optical axis."""
        return self.camera.depth()

    # --- building ---------------------------------------------------------------------------------------------------

    def _build(self, texture_pool: int) -> None:
        client = self.client
        self.task.fit_to(self.arm)
        client.resetSimulation()
        client.setGravity(0, 0, -9.81)
        client.setTimeStep(DT)
        loaded = load_bullet_arm(client, self.arm, gripping=self.task.grips)
        self.arm_body, self._joints, self._fingers = loaded.body, loaded.joints, loaded.fingers
        self._tool, self.arm_links = loaded.tool, loaded.links
        self._sensed = self._joints + self._fingers
        table = self.scene.table
        self._table = self._surface(table.size, Pose(xyz=table.centre))
        self._obstacles = [self._surface(each.size, each.pose) for each in self.scene.obstacles]
        self.bodies = BulletBodies(client, object_mesh(self.scene), mass(self.scene))
        drawn_as_collision = self.arm.visuals != "visual"
        cullable = [
            link
            for link in self.arm_links[1:]
            if drawn_as_collision and client.getCollisionShapeData(self.arm_body, link)
        ]
        self.renderer = SceneRenderer(client, self.camera, self.arm_body, cullable)
        self.task.build(self)
        self.dressing = Dressing(client, self.renderer, self.profile, self.scene, texture_pool)
        self.renderer.stand_still([(body, -1) for body in (self.arm_body, self._table, *self._obstacles)])
        self.renderer.stand_still(self.bodies.still)
        self._pristine = client.saveState()

    def _surface(self, size: Vector, pose: Pose) -> Body:
        half = [extent / 2 for extent in size]
        return self.client.createMultiBody(
            0,
            self.client.createCollisionShape(self.client.GEOM_BOX, halfExtents=half),
            self.client.createVisualShape(self.client.GEOM_BOX, halfExtents=half),
            basePosition=pose.xyz,
            baseOrientation=pose.quaternion_xyzw,
        )

    # --- an episode -------------------------------------------------------------------------------------------------

    def _draw(self, seed: int) -> Sample:
        return sample(self.profile, seed)

    def _prepare(self, seed: int) -> None:
        self._commands = []
        # This removes contacts and solver impulses of the last episode; in this state the blocks are far away.
        self.client.restoreState(self._pristine)
        self.client.performCollisionDetection()
        self._reset_arm(self._reset_positions)
        self.task.reset(self, stream(seed, "task"))
        self.dressing.arrange(self.sample, (self.arm_body, self.arm_links), self._table, self.bodies, self._obstacles)
        contract = self.camera.contract
        self.camera.reset(self.sample, self.dressing.background(self.sample, (contract.height, contract.width)))
        self.renderer.forget_backdrop()
        self.episode_state.measured = None
        self._exposure_ticks = round(self.sample["motion_blur"] * TICKS_PER_SECOND)

    def _reset_arm(self, positions: np.ndarray | None) -> None:
        drawn, client = self.sample, self.client
        limits = self.arm.limits
        if positions is None:
            positions = np.array(self.arm.home) + drawn["home_offset"][: len(self.arm.home)]
        gripper = self.arm.gripper
        width = 0.0 if gripper is None else gripper.closed_width if self.task.starts_closed else gripper.open_width
        start = np.clip(positions, limits.lower, limits.upper)
        self.move_arm(start, width)
        self._motors = self._start_motors()
        self._motors.drive(start, np.zeros_like(start))
        if gripper is not None:
            self._command_gripper(width)
        client.changeDynamics(self._table, -1, lateralFriction=drawn["table_friction"])
        for finger in self._fingers:
            client.changeDynamics(self.arm_body, finger, lateralFriction=drawn["finger_friction"])
        self.bodies.set_dynamics(drawn)

    def _start_motors(self) -> JointMotors:
        """Return the joint motors of the episode."""
        drawn, count, limits = self.sample, len(self._joints), self.arm.limits
        drives = drive_parameters(drawn, limits.effort)
        if drives is not None:
            if self._torque_drive is None:
                self._torque_drive = TorqueDrive(self.client, self.arm_body, self._joints, self.arm.home)
            self._torque_drive.begin(drives)
            return self._torque_drive
        for joint, damping in zip(self._joints, per_joint(drawn["joint_damping"], count), strict=True):
            self.client.changeDynamics(self.arm_body, joint, jointDamping=damping)
        strengths = per_joint(drawn["motor_strength"], count)
        forces = [effort * strength for effort, strength in zip(limits.effort, strengths, strict=True)]
        return PositionMotors(self.client, self.arm_body, self._joints, per_joint(drawn["motor_gain"], count), forces)

    def _simulate(self, setpoint: Setpoint | None, gripper_width: float | None) -> None:
        self._commands.append((setpoint, gripper_width))
        if setpoint is not None:
            self._motors.drive(*setpoint)
        if gripper_width is not None and self.arm.gripper is not None:
            self._command_gripper(gripper_width)
        self._motors.before_step()
        self.client.stepSimulation()

    def _command_gripper(self, width: float) -> None:
        gripper = self.arm.gripper
        assert gripper is not None
        targets = gripper.positions(float(np.clip(width, gripper.closed_width, gripper.open_width)))
        force = gripper.effort * gripper.width_per_position / len(self._fingers)
        fastest = gripper.velocity / (gripper.width_per_position * len(self._fingers))
        for finger, target in zip(self._fingers, targets, strict=True):
            self.client.setJointMotorControl2(
                self.arm_body,
                finger,
                self.client.POSITION_CONTROL,
                targetPosition=target,
                force=force,
                maxVelocity=fastest,
            )

    def _measure(self) -> JointState:
        count = len(self._joints)
        all_positions, all_velocities, _, all_efforts = zip(
            *self.client.getJointStates(self.arm_body, self._sensed), strict=True
        )
        efforts = self._motors.efforts(all_efforts[:count])
        measured = np.array((all_positions[:count], all_velocities[:count], efforts))
        if self.tick == self.episode_state.start_tick:
            measured[2] = 0  # PyBullet still reports the efforts of the last step, in the previous episode
        noise = self.sample["joint_noise"]
        if noise > 0:
            drawn = self.episode_state.sensors.standard_normal((2, count))
            drawn *= ((noise,), (10 * noise,))
            measured[:2] += drawn
        width = self._width(all_positions[count:])
        return JointState(self.stamp_ns, measured[0], measured[1], measured[2], width)

    # --- images -----------------------------------------------------------------------------------------------------

    def _photograph(self) -> np.ndarray:
        if self.blind:
            contract = self.camera.contract
            return np.zeros((contract.height, contract.width, 3), np.uint8)
        if not self.is_seen(self.stamp_ns):
            self.camera.skip()
            return self.episode_state.image
        rendered, exposures = self._render(), self.episode_state.exposures
        if exposures:
            rendered = np.asarray(np.mean([*exposures, rendered], axis=0, dtype=np.float32)).astype(np.uint8)
        return self.camera.expose(rendered)

    def _expose(self, ticks_left: int) -> None:
        if ticks_left == self.ticks_per_frame - 1:
            self.episode_state.exposures = []
        exposing = ticks_left <= self._exposure_ticks and not self.blind
        if exposing and self.is_seen(self.stamp_of(self.tick + ticks_left)):
            self.episode_state.exposures.append(self._render())

    def _render(self) -> np.ndarray:
        self.dressing.move((self.tick - self.episode_state.start_tick) * DT)
        return self.renderer.render()
