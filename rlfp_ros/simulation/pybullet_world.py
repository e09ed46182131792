"""The PyBullet world: one arm, one task and a camera on a table, stepped in ticks of 1/240 s.

The Gymnasium environment and the simulator node are two faces of this class. For each tick the caller takes the frames
that are due (`delivered_frames`), reads the joints (`joint_state`), and gives the command of that tick (`step`).
Every random number of an episode comes from its seed.
"""

from __future__ import annotations

import colorsys
import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pybullet_data

from rlfp_ros.contract import CameraContract
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.brick import brick
from rlfp_ros.simulation.bullet import connect
from rlfp_ros.simulation.camera import Camera
from rlfp_ros.simulation.randomization import OBJECTS, Profile, Sample, sample, stream
from rlfp_ros.simulation.scene import Box, Scene
from rlfp_ros.simulation.tasks.task import Task
from rlfp_ros.simulation.tasks.task_scene import HAND_BEHIND_TOOL, Body
from rlfp_ros.simulation.textures import photograph_set, texture_set
from rlfp_ros.simulation.ticked_world import DT, TICKS_PER_SECOND, TickedWorld
from rlfp_ros.simulation.urdf import simulation_urdf

BLOCK_MASS = 0.03  # kg, nominal
POSITION_GAIN, VELOCITY_GAIN = 0.35, 1.0  # PyBullet's position control: share of the error removed in a step
# Without a gear between them the two fingers would slide sideways together, and what they hold with them.
FINGER_GEAR_ERP, FINGER_GEAR_FORCE = 0.1, 50.0  # share of the error removed in a step; N
TEXTURES = 48  # a pool, loaded once: loadTexture leaks 1.5 MB a call
PHOTOGRAPHS = 24  # likewise
FAR_AWAY = (0.0, 0.0, -5.0)  # m, where unused bodies wait, behind the camera's far plane
UNSEEN = (0, 0, 0, 0)  # TinyRenderer leaves bodies without alpha out; far away they would still cost their triangles
DISTRACTOR_HUES = (0.12, 0.88)  # of the colour circle; leaves out the red that marks the task's block

PLAIN_TABLE = (0.55, 0.52, 0.48)  # rgb, 0..1
PLAIN_BACKGROUND = 200  # grey, 0..255
DISTRACTOR_REGION = ((0.15, -0.45), (0.85, 0.45))  # m, base frame
DISTRACTOR_SWING = 0.04  # m, how far a moving one goes to either side
MARKER_COLOUR = (0.05, 0.75, 0.25)  # rgb, 0..1; the same in every episode: it says what to do
MARKER_THICKNESS = 0.002  # m
OCCLUDERS = 3
OCCLUDER_HALF_SIZE = (0.008, 0.008, 0.25)  # m
OCCLUDER_DEPTH = (0.3, 0.6)  # of the way from the camera to the middle of what it looks at
OCCLUDER_OFFSET = 0.12  # m to any side of that line
HOUSEHOLD = 6  # bodies that a world keeps of pybullet_data's random objects; 0.1 ms of rendering each
HOUSEHOLD_SIZE = 0.035  # m, half of the longest extent
RANDOM_OBJECTS = 1000  # there are; even numbers for training, odd ones for validation
DISTRACTOR_CLEARANCE = 0.11  # m, from the task's blocks: a swing and half of the largest distractor


@dataclass(frozen=True)
class WorldState:
    """All that a world is at one tick, from `PybulletWorld.save`: plain data, for any world of the same make.

    PyBullet's own snapshots lose the order of contacts and so drift by rounding; this is what was sent to it.
    """

    sample: Sample
    positions: np.ndarray | None  # [J] rad that the episode was reset to
    tick: int
    commands: tuple[tuple[tuple[np.ndarray, np.ndarray] | None, float | None], ...]  # setpoint and width of each tick
    values: dict[str, Any]  # attributes of the world
    electronics: Any  # the camera's
    task: Any  # the task's `state`


# What changes between a world's ticks, besides the physics server's own state.
STEPPED = (
    "_start_tick", "_frames", "_held_frames", "outcome", "_pending", "_timing", "_dropping", "_sensors", "_setpoints",
    "_measured", "_controller", "_distractor_motion", "_exposures", "captured", "image", "image_stamp_ns",
)  # fmt: skip


class PybulletWorld(TickedWorld):
    """One arm, one task, one camera. `reset(seed)` before anything else.

    `profile` says what each episode randomises, `camera` what picture the policy expects, `texture_pool` which
    `TEXTURES` textures of the profile's set are drawn from. Raises ConfigurationError where arm, URDF and task do not
    fit each other.
    """

    def __init__(
        self, arm: Arm, task: Task, profile: Profile, scene: Scene, camera: CameraContract | None = None,
        texture_pool: int = 0,
    ) -> None:  # fmt: skip
        self.camera = Camera(camera or scene.camera.contract())
        super().__init__(arm, task, self.camera.contract.rate_hz)
        self.profile, self.scene = profile, scene
        self._texture_pool = texture_pool
        self.blind = False  # True: pictures are black and cost nothing; for learning from states
        self.client = connect()
        self._build()

    # --- the life of an episode -------------------------------------------------------------------------------------

    def reset(self, seed: int, positions: np.ndarray | None = None) -> Sample:
        """Start an episode, at home or at `positions` [J] rad.

        Time goes on by a few ticks: stamps never repeat and never jump back.
        """
        self._reset_positions = positions
        return super().reset(seed)

    def save(self) -> WorldState:
        """The full state at this tick, between two steps: `restore` goes back to it, bit for bit."""
        return WorldState(
            sample=self.sample,
            positions=self._reset_positions,
            tick=self.tick,
            commands=tuple(self._commands),
            values=copy.deepcopy({name: getattr(self, name) for name in STEPPED}),
            electronics=copy.deepcopy(self.camera.electronics),
            task=copy.deepcopy(self.task.state),
        )

    def restore(self, state: WorldState) -> None:
        """Go to a state that was saved here or in another world of the same make. Stamps go back with it.

        Plays the episode's commands again without its pictures, so it takes as long as the physics since the reset.
        What was put in place by hand since then (`place`, `move_arm`) is not among them.
        """
        self.reset(state.sample.seed, state.positions)
        for setpoint, width in state.commands:
            self._simulate(setpoint, width)
        self.tick = state.tick
        for name, value in copy.deepcopy(state.values).items():
            setattr(self, name, value)
        self.camera.electronics = copy.deepcopy(state.electronics)
        self.task.state = copy.deepcopy(state.task)

    def close(self) -> None:
        """Give back the physics server's memory."""
        if self.client.isConnected():
            self.client.disconnect()

    @property
    def calibration(self) -> CameraModel | None:
        """The camera that perception is told of. None: the bundle's; what it deviates by is randomisation."""
        return None

    # --- what tasks and teachers may ask ----------------------------------------------------------------------------

    def tool_position(self) -> np.ndarray:
        """True tool centre point, [3] m, base frame."""
        return np.array(self.client.getLinkState(self._body, self._tool, computeForwardKinematics=1)[4])

    def hand_position(self) -> np.ndarray:
        """True place [3] m, base frame, `HAND_BEHIND_TOOL` behind the tool centre point: a second point on the arm."""
        state = self.client.getLinkState(self._body, self._tool, computeForwardKinematics=1)
        direction = np.array(self.client.getMatrixFromQuaternion(state[5])).reshape(3, 3)[:, 2]
        return np.array(state[4]) - HAND_BEHIND_TOOL * direction

    def tool_velocity(self) -> np.ndarray:
        """True velocity of the tool centre point, [3] m/s, base frame."""
        return np.array(self.client.getLinkState(self._body, self._tool, 1, computeForwardKinematics=1)[6])

    def body_pose(self, body: Body) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] m and quaternion xyzw [4], base frame."""
        position, orientation = self.client.getBasePositionAndOrientation(body)
        return np.array(position), np.array(orientation)

    def keypoints(self) -> np.ndarray:
        """The task's keypoints in the picture just captured, on the plane z = 1 of the contract's camera, [N, 2]."""
        intrinsics = self.camera.contract.intrinsics
        pixels = self.camera.project(self.task.keypoint_positions(self))
        return (pixels - (intrinsics.cx, intrinsics.cy)) / (intrinsics.fx, intrinsics.fy)

    def gripper_width(self) -> float:
        """True opening, m."""
        fingers = self.client.getJointStates(self._body, self._fingers) if self._fingers else ()
        return self._width([state[0] for state in fingers])

    def _width(self, positions: Sequence[float]) -> float:
        return 0.0 if self.arm.gripper is None else self.arm.gripper.width(positions)

    def contacts(self, body: Body) -> np.ndarray:
        """Points [N, 3] m, base frame, at which the arm touches a body now."""
        points = [contact[5] for contact in self.client.getContactPoints(self._body, body)]
        return np.array(points, dtype=float).reshape(-1, 3)

    def add_block(self, size: tuple[float, float, float], studs: bool = False) -> Body:
        """A free box that takes the colour of the task's object and the sampled mass and friction.

        `studs` makes it look like a LEGO brick; to touch it stays the box.
        """
        client, half = self.client, [extent / 2 for extent in size]
        if studs:
            vertices, normals = brick(size)
            visual = client.createVisualShape(
                client.GEOM_MESH, vertices=vertices.tolist(), indices=list(range(len(vertices))),
                normals=normals.tolist(), uvs=[[0.0, 0.0]] * len(vertices),
            )  # fmt: skip
        else:
            visual = client.createVisualShape(client.GEOM_BOX, halfExtents=half)
        body = client.createMultiBody(
            BLOCK_MASS,
            client.createCollisionShape(client.GEOM_BOX, halfExtents=half),
            visual,
            basePosition=FAR_AWAY,
        )
        self._blocks.append(body)
        return body

    def add_marker(self, radius: float) -> Body:
        """A flat disc to be seen only, `MARKER_COLOUR`; `place` puts it somewhere."""
        shape = self.client.createVisualShape(self.client.GEOM_CYLINDER, radius=radius, length=MARKER_THICKNESS)
        marker: Body = self.client.createMultiBody(0, -1, shape, basePosition=FAR_AWAY)
        self._markers.append(marker)
        return marker

    def place(self, body: Body, position: tuple[float, float, float], yaw: float = 0.0) -> None:
        """Put a body somewhere at rest, base frame."""
        orientation = (0.0, 0.0, float(np.sin(yaw / 2)), float(np.cos(yaw / 2)))
        self.client.resetBasePositionAndOrientation(body, position, orientation)
        self.client.resetBaseVelocity(body, (0, 0, 0), (0, 0, 0))
        if body in self._markers:
            self._backdrop_kept = False

    def move_arm(self, positions: np.ndarray, gripper_width: float) -> None:
        """Teleport the arm, at rest; positions [J] rad, width in m."""
        for joint, position in zip(self._joints, positions, strict=True):
            self.client.resetJointState(self._body, joint, position, 0.0)
        if self.arm.gripper is not None:
            for finger, position in zip(self._fingers, self.arm.gripper.positions(gripper_width), strict=True):
                self.client.resetJointState(self._body, finger, position, 0.0)
        self._controller.reset(np.asarray(positions, dtype=float))
        self._measured = None

    def picture(self) -> np.ndarray:
        """A picture of the world as it stands, uint8 [H, W, 3]; outside the camera's schedule."""
        return self.camera.expose(self._render())

    def depth(self) -> np.ndarray:
        """Depth of the last picture rendered, float32 [H, W] m along the optical axis."""
        return self.camera.depth()

    # --- building ---------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        client = self.client
        self.task.fit_to(self.arm)
        client.resetSimulation()
        client.setGravity(0, 0, -9.81)
        client.setTimeStep(DT)
        flags = client.URDF_USE_INERTIA_FROM_FILE | client.URDF_MAINTAIN_LINK_ORDER
        self._body = client.loadURDF(str(simulation_urdf(self.arm)), useFixedBase=True, flags=flags)
        joints, links = {}, {}
        for index in range(client.getNumJoints(self._body)):
            info = client.getJointInfo(self._body, index)
            joints[info[1].decode()], links[info[12].decode()] = index, index
        finger_names = self.arm.gripper.joint_names if self.arm.gripper else ()
        for name in (*self.arm.joint_names, *finger_names):
            if name not in joints:
                raise ConfigurationError(
                    f"config/arms/{self.arm.name}.yaml: joint {name} is not in {self.arm.urdf}; "
                    f"it has: {', '.join(joints)}"
                )
        if self.arm.tool_frame not in links:
            raise ConfigurationError(
                f"config/arms/{self.arm.name}.yaml: tool_frame {self.arm.tool_frame} is not a link of {self.arm.urdf}; "
                f"it has: {', '.join(links)}"
            )
        self._joints = [joints[name] for name in self.arm.joint_names]
        self._fingers = [joints[name] for name in finger_names]
        self._sensed = self._joints + self._fingers
        self._tool = links[self.arm.tool_frame]
        self._links = [-1, *links.values()]
        for finger in self._fingers:
            client.changeDynamics(self._body, finger, spinningFriction=0.01)
        if self.task.grips and len(self._fingers) == 2:
            gear = client.createConstraint(
                self._body, self._fingers[0], self._body, self._fingers[1], client.JOINT_GEAR,
                jointAxis=(1, 0, 0), parentFramePosition=(0, 0, 0), childFramePosition=(0, 0, 0),
            )  # fmt: skip
            client.changeConstraint(gear, gearRatio=-1, erp=FINGER_GEAR_ERP, maxForce=FINGER_GEAR_FORCE)
        scene = self.scene
        self._table = self._surface(scene.table)
        self._blocks: list[Body] = []
        self._markers: list[Body] = []
        self._colours: dict[tuple[Body, int], tuple[float, float, float] | None] = {}  # of body and link; None: unseen
        drawn_as_collision = self.arm.visuals != "visual"
        self._cullable = [
            link for link in self._links[1:] if drawn_as_collision and client.getCollisionShapeData(self._body, link)
        ]
        self._links_shown = [True] * len(self._cullable)
        self.task.build(self)
        self._distractors = [self._distractor(index) for index in range(OBJECTS)]
        self._occluders = [self._occluder() for _ in range(OCCLUDERS)] if "occluders" in self.profile.ranges else []
        self._household = self._random_objects() if "household" in self.profile.ranges else []
        textures = self.profile.textures
        self._pictures = [] if textures == "plain" else texture_set(textures, TEXTURES, TEXTURES * self._texture_pool)
        self._textures = self._load_textures(self._pictures)
        photographed = "photographs" in self.profile.ranges
        self._photographs = photograph_set(self._kind, PHOTOGRAPHS) if photographed else []
        self._photograph_textures = self._load_textures(self._photographs)
        self._pristine = client.saveState()

    def _surface(self, box: Box) -> Body:
        half = [extent / 2 for extent in box.size]
        return self.client.createMultiBody(
            0,
            self.client.createCollisionShape(self.client.GEOM_BOX, halfExtents=half),
            self.client.createVisualShape(self.client.GEOM_BOX, halfExtents=half),
            basePosition=box.centre,
        )

    def _distractor(self, index: int) -> Body:
        """A body to be seen only: it collides with nothing."""
        size = 0.02 + 0.006 * index  # m
        client = self.client
        shape = (
            client.createVisualShape(client.GEOM_SPHERE, radius=size),
            client.createVisualShape(client.GEOM_BOX, halfExtents=[size, size * 1.6, size * 0.7]),
            client.createVisualShape(client.GEOM_CYLINDER, radius=size, length=3 * size),
        )[index % 3]
        return client.createMultiBody(0, -1, shape, basePosition=FAR_AWAY)

    def _occluder(self) -> Body:
        """A bar to be seen only."""
        client = self.client
        shape = client.createVisualShape(client.GEOM_BOX, halfExtents=OCCLUDER_HALF_SIZE)
        return client.createMultiBody(0, -1, shape, basePosition=FAR_AWAY)

    @property
    def _kind(self) -> str:
        """Whose photographs and objects: training's, or those held out."""
        return "validation" if self.profile.textures == "validation" else "train"

    def _random_objects(self) -> list[Body]:
        """Bodies to be seen only, of odd shapes."""
        client, bodies = self.client, []
        folder = Path(pybullet_data.getDataPath()) / "random_urdfs"
        for index in range(HOUSEHOLD):
            number = (2 * 83 * index) % RANDOM_OBJECTS + (self._kind == "validation")
            mesh = folder / f"{number:03d}" / f"{number:03d}.obj"
            corners = np.array(
                [line.split()[1:4] for line in mesh.read_text().splitlines() if line.startswith("v ")], float
            )
            scale = 2 * HOUSEHOLD_SIZE / np.ptp(corners, axis=0).max()
            middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
            shape = client.createVisualShape(
                client.GEOM_MESH,
                fileName=str(mesh),
                meshScale=[scale] * 3,
                visualFramePosition=(-scale * middle).tolist(),
            )
            bodies.append(client.createMultiBody(0, -1, shape, basePosition=FAR_AWAY))
        return bodies

    def _load_textures(self, pictures: list[np.ndarray]) -> list[int]:
        identifiers = []
        with tempfile.TemporaryDirectory() as folder:
            for index, image in enumerate(pictures):
                path = Path(folder) / f"{index}.png"
                cv2.imwrite(str(path), image[..., ::-1])
                identifiers.append(self.client.loadTexture(str(path)))
        return identifiers

    # --- an episode -------------------------------------------------------------------------------------------------

    def _draw(self, seed: int) -> Sample:
        return sample(self.profile, seed)

    def _prepare(self, seed: int) -> None:
        self._sensors = stream(seed, "joints")
        self._commands: list[tuple[tuple[np.ndarray, np.ndarray] | None, float | None]] = []  # one for each tick
        # Contacts and solver impulses of the last episode would live on; the blocks are far away in this state.
        self.client.restoreState(self._pristine)
        self.client.performCollisionDetection()
        self._reset_arm(self._reset_positions)
        self.task.reset(self, stream(seed, "task"))
        self._dress()
        self.camera.reset(self.sample, self._background())
        self._backdrop_kept = False
        self._measured = None
        self._exposure_ticks = round(self.sample["motion_blur"] * TICKS_PER_SECOND)
        self._exposures: list[np.ndarray] = []  # pictures of this frame's exposure time, before its end

    def _reset_arm(self, positions: np.ndarray | None) -> None:
        drawn, client = self.sample, self.client
        limits = self.arm.limits
        if positions is None:
            positions = np.array(self.arm.home) + drawn["home_offset"][: len(self.arm.home)]
        gripper = self.arm.gripper
        width = 0.0 if gripper is None else gripper.closed_width if self.task.starts_closed else gripper.open_width
        start = np.clip(positions, limits.lower, limits.upper)
        self.move_arm(start, width)
        for joint in self._joints:
            client.changeDynamics(self._body, joint, jointDamping=drawn["joint_damping"])
        self._forces = [effort * drawn["motor_strength"] for effort in limits.effort]
        self._position_gains = [POSITION_GAIN * drawn["motor_gain"]] * len(self._joints)
        self._velocity_gains = [VELOCITY_GAIN] * len(self._joints)
        self._drive(start, np.zeros_like(start))
        if gripper is not None:
            self._command_gripper(width)
        client.changeDynamics(self._table, -1, lateralFriction=drawn["table_friction"])
        for finger in self._fingers:
            client.changeDynamics(self._body, finger, lateralFriction=drawn["finger_friction"])
        for block in self._blocks:
            client.changeDynamics(
                block, -1, mass=BLOCK_MASS * drawn["object_mass"], lateralFriction=drawn["object_friction"]
            )

    def _simulate(self, setpoint: tuple[np.ndarray, np.ndarray] | None, gripper_width: float | None) -> None:
        """One tick of physics."""
        self._commands.append((setpoint, gripper_width))
        if setpoint is not None:
            self._drive(*setpoint)
        if gripper_width is not None and self.arm.gripper is not None:
            self._command_gripper(gripper_width)
        self.client.stepSimulation()

    def _drive(self, position: np.ndarray, velocity: np.ndarray) -> None:
        """Give the joint motors a setpoint, [J] rad and rad/s."""
        self.client.setJointMotorControlArray(
            self._body, self._joints, self.client.POSITION_CONTROL, targetPositions=position.tolist(),
            targetVelocities=velocity.tolist(), forces=self._forces, positionGains=self._position_gains,
            velocityGains=self._velocity_gains,
        )  # fmt: skip

    def _command_gripper(self, width: float) -> None:
        gripper = self.arm.gripper
        assert gripper is not None
        targets = gripper.positions(float(np.clip(width, gripper.closed_width, gripper.open_width)))
        force = gripper.effort * gripper.width_per_position / len(self._fingers)
        fastest = gripper.velocity / (gripper.width_per_position * len(self._fingers))
        for finger, target in zip(self._fingers, targets, strict=True):
            self.client.setJointMotorControl2(
                self._body, finger, self.client.POSITION_CONTROL, targetPosition=target, force=force,
                maxVelocity=fastest,
            )  # fmt: skip

    def _dress(self) -> None:
        """Colours, textures and distractors of the episode."""
        drawn, client = self.sample, self.client
        rng = stream(drawn.seed, "appearance")
        hue = (drawn["block_hue"] / 360) % 1
        colour = colorsys.hsv_to_rgb(hue, drawn["block_saturation"], drawn["block_value"])
        for block in self._blocks:
            self._paint(block, -1, colour)
        for marker in self._markers:
            self._paint(marker, -1, MARKER_COLOUR)
        tint, value = drawn["arm_tint"], drawn["arm_value"]
        arm_hue = rng.uniform()
        for link in self._links:
            shade = colorsys.hsv_to_rgb(arm_hue, tint, value * rng.uniform(0.6, 1.0))
            if self.profile.textures == "plain":
                shade = (value, value, value)
            self._paint(self._body, link, shade)
        if self._textures:
            texture = self._textures[int(rng.integers(len(self._textures)))]
            client.changeVisualShape(self._table, -1, textureUniqueId=texture)
            self._paint(self._table, -1, (1.0, 1.0, 1.0))
        else:
            client.changeVisualShape(self._table, -1, textureUniqueId=-1)  # the photograph of an episode before
            self._paint(self._table, -1, PLAIN_TABLE)
        self._distractor_motion: list[tuple[Body, np.ndarray, np.ndarray, float]] = []
        order = rng.permutation(OBJECTS)
        for place, index in enumerate(order):
            body = self._distractors[index]
            if place >= drawn["distractors"]:
                client.resetBasePositionAndOrientation(body, FAR_AWAY, (0, 0, 0, 1))
                self._paint(body, -1, None)
                continue
            shade = colorsys.hsv_to_rgb(rng.uniform(*DISTRACTOR_HUES), rng.uniform(0, 1), rng.uniform(0.2, 1))
            self._paint(body, -1, shade)
            direction = rng.uniform(0, 2 * np.pi)
            swing = DISTRACTOR_SWING * np.array([np.cos(direction), np.sin(direction), 0.0])
            rate = drawn["distractor_speed"][place] / DISTRACTOR_SWING  # rad/s
            self._distractor_motion.append((body, self._free_place(rng), swing, rate))
        self._hang_occluders()
        self._lay_out_household()
        rng = stream(drawn.seed, "photographs")
        if rng.uniform() < drawn["photographs"]:
            texture = self._photograph_textures[int(rng.integers(PHOTOGRAPHS))]
            client.changeVisualShape(self._table, -1, textureUniqueId=texture)
            self._paint(self._table, -1, (1.0, 1.0, 1.0))

    def _paint(self, body: Body, link: int, colour: tuple[float, float, float] | None) -> None:
        """The episode's colour of a body's link, rgb in 0..1; None hides it."""
        self._colours[body, link] = colour
        self._show(body, link, True)

    def _show(self, body: Body, link: int, seen: bool) -> None:
        colour = self._colours[body, link]
        self.client.changeVisualShape(body, link, rgbaColor=(*colour, 1) if seen and colour is not None else UNSEEN)

    def _hang_occluders(self) -> None:
        """Bars between camera and table, each in a place and colour of its own."""
        drawn, camera = self.sample, self.scene.camera
        rng = stream(drawn.seed, "occluders")
        for index, body in enumerate(self._occluders):
            if index >= drawn["occluders"]:
                self.client.resetBasePositionAndOrientation(body, FAR_AWAY, (0, 0, 0, 1))
                self._paint(body, -1, None)
                continue
            between = np.array(camera.position) + rng.uniform(*OCCLUDER_DEPTH) * np.subtract(
                camera.target, camera.position
            )
            turned = rng.standard_normal(4)
            place = between + rng.uniform(-OCCLUDER_OFFSET, OCCLUDER_OFFSET, 3)
            self.client.resetBasePositionAndOrientation(body, place, turned / np.linalg.norm(turned))
            shade = colorsys.hsv_to_rgb(rng.uniform(*DISTRACTOR_HUES), rng.uniform(0, 1), rng.uniform(0.1, 1))
            self._paint(body, -1, shade)

    def _lay_out_household(self) -> None:
        """Odd things on the table that stand still, each in a place and colour of its own."""
        rng = stream(self.sample.seed, "household")
        for place, index in enumerate(rng.permutation(len(self._household))):
            body = self._household[index]
            if place >= self.sample["household"]:
                self.client.resetBasePositionAndOrientation(body, FAR_AWAY, (0, 0, 0, 1))
                self._paint(body, -1, None)
                continue
            yaw = rng.uniform(-np.pi, np.pi)
            turned = (0.0, 0.0, float(np.sin(yaw / 2)), float(np.cos(yaw / 2)))
            self.client.resetBasePositionAndOrientation(body, self._free_place(rng).tolist(), turned)
            self._paint(
                body, -1, colorsys.hsv_to_rgb(rng.uniform(*DISTRACTOR_HUES), rng.uniform(0, 1), rng.uniform(0.2, 1))
            )

    def _free_place(self, rng: np.random.Generator) -> np.ndarray:
        """A place on the table, [3] m, where a distractor never hides the task's blocks."""
        blocks = [self.body_pose(block)[0][:2] for block in self._blocks]
        while True:
            place = rng.uniform(DISTRACTOR_REGION[0], DISTRACTOR_REGION[1])
            if all(np.linalg.norm(place - block) > DISTRACTOR_CLEARANCE for block in blocks):
                return np.array([*place, 0.03])

    def _background(self) -> np.ndarray:
        """What the camera sees behind table and arm: a random cut of a texture, uint8 [H, W, 3]."""
        shape = (self.camera.contract.height, self.camera.contract.width)
        rng = stream(self.sample.seed, "background")
        pictures = self._pictures
        if stream(self.sample.seed, "photographed background").uniform() < self.sample["photographs"]:
            pictures = self._photographs
        if not pictures:
            return np.full((*shape, 3), PLAIN_BACKGROUND, np.uint8)
        picture = pictures[int(rng.integers(len(pictures)))]
        size = int(rng.integers(len(picture) // 4, len(picture) + 1))
        x, y = rng.integers(0, len(picture) - size + 1, 2)
        cut = cv2.resize(picture[y : y + size, x : x + size], shape[::-1], interpolation=cv2.INTER_LINEAR)
        return (cut * rng.uniform(0.4, 1.0)).astype(np.uint8)

    def _move_distractors(self) -> None:
        elapsed = (self.tick - self._start_tick) * DT
        for body, middle, swing, rate in self._distractor_motion:
            position = middle + swing * np.sin(rate * elapsed)
            self.client.resetBasePositionAndOrientation(body, position.tolist(), (0, 0, 0, 1))

    def _measure(self) -> JointState:
        count = len(self._joints)
        values = list(zip(*self.client.getJointStates(self._body, self._sensed), strict=True))
        positions, velocities = np.array(values[0][:count]), np.array(values[1][:count])
        efforts = np.array(values[3][:count])
        if self.tick == self._start_tick:
            efforts[:] = 0  # PyBullet still shows the last step's, of the episode before
        noise = self.sample["joint_noise"]
        if noise > 0:
            drawn = self._sensors.standard_normal(2 * count)
            positions += noise * drawn[:count]
            velocities += 10 * noise * drawn[count:]
        return JointState(self.stamp_ns, positions, velocities, efforts, self._width(values[0][count:]))

    # --- drawing ----------------------------------------------------------------------------------------------------

    def _photograph(self) -> np.ndarray:
        if self.blind:
            contract = self.camera.contract
            return np.zeros((contract.height, contract.width, 3), np.uint8)
        rendered = self._render()
        if self._exposures:
            rendered = np.asarray(np.mean([*self._exposures, rendered], axis=0, dtype=np.float32)).astype(np.uint8)
        return self.camera.expose(rendered)

    def _expose(self, ticks_left: int) -> None:
        if ticks_left == self.ticks_per_frame - 1:
            self._exposures = []
        if ticks_left <= self._exposure_ticks and not self.blind:
            self._exposures.append(self._render())

    def _render(self) -> np.ndarray:
        """The world as it stands through the lens, uint8 [H, W, 3].

        TinyRenderer takes its time for what is hidden or outside the picture too, and most of it for the table. So,
        unless there are shadows, what stands still is drawn once an episode, and links out of sight not at all.
        """
        self._move_distractors()
        if not self.camera.casts_shadows:
            if not self._backdrop_kept:
                self._keep_backdrop()
            seen = self.camera.sees(np.array([self.client.getAABB(self._body, link) for link in self._cullable]))
            for index, link in enumerate(self._cullable):
                if seen[index] != self._links_shown[index]:
                    self._show(self._body, link, seen[index])
            self._links_shown = seen
        return self.camera.render(self.client)

    def _keep_backdrop(self) -> None:
        still = {
            (self._body, -1),
            (self._table, -1),
            *((body, -1) for body in (*self._markers, *self._occluders, *self._household)),
        }
        for body, link in self._colours:
            self._show(body, link, (body, link) in still)
        self.camera.keep(self.client)
        for body, link in self._colours:
            self._show(body, link, (body, link) not in still)
        self._links_shown = [True] * len(self._cullable)
        self._backdrop_kept = True
