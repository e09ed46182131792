"""The Gymnasium environment: the world stepped from one camera frame to the next, with the deployed controller inside.

One `step` is one frame the camera delivers. The action given for it takes effect when that frame would have reached the
policy, through the same residual controller and limits that run on an arm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np

from rlfp_ros.contract import ActionContract, BaseController, Contract
from rlfp_ros.control.arm import Arm, JointState, load_arm
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.policy import ObservationContract, Observer, residual_of
from rlfp_ros.control.residual_controller import ResidualController
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.perception.encoder import Percept, in_base_frame
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.feature_error import FeatureErrorModel, FeatureErrors
from rlfp_ros.simulation.pybullet_world import World
from rlfp_ros.simulation.randomization import Profile, load_profile, stream
from rlfp_ros.simulation.scene import Scene, load_scene
from rlfp_ros.simulation.tasks.task import load_task
from rlfp_ros.simulation.ticked_world import ArmWorld

Perceiver = Callable[[np.ndarray], np.ndarray]  # picture uint8 [H, W, 3] -> features float32 [K, 3]
ObservationKind = Literal["pixels", "features", "state", "both"]

SIMULATION_SETTINGS = ControllerSettings(start_enabled=True, tick_on="joint_states", episode_reset_clears_stop=True)
REACH_ACTION = ActionContract(
    components=("vx", "vy", "vz"), scale=(0.25, 0.25, 0.25), units=("m/s", "m/s", "m/s"), rate_hz=30.0
)
GRIPPING_ACTION = ActionContract(
    components=("vx", "vy", "vz", "gripper"),
    scale=(0.25, 0.25, 0.25, 0.04),
    units=("m/s", "m/s", "m/s", "m"),
    rate_hz=30.0,
)


@dataclass(frozen=True)
class Behaviour:
    """What moves the arm: the policy's action, and the base controller it is added to."""

    action: ActionContract
    base_controller: BaseController


HOLD = BaseController(name="hold")
GUIDED = ("servo", "mpc")  # base controllers that go by the object's pose
NO_FEATURES = np.zeros((1, 3), np.float32)
NO_IMAGE = np.zeros((0, 0, 3), np.uint8)
BEHAVIOURS = {
    "reach": Behaviour(REACH_ACTION, HOLD),
    "push": Behaviour(REACH_ACTION, HOLD),
    "lift": Behaviour(GRIPPING_ACTION, HOLD),
    "place": Behaviour(GRIPPING_ACTION, HOLD),
}


class Deployment:
    """A world with the residual controller on its arm: what both the environment and evaluation step.

    For every tick: frames that are due are delivered, the residual that answers each takes effect, the controller
    ticks on the measured joints, and its command goes to the arm. The simulator node does the same through topics.
    """

    def __init__(self, world: ArmWorld, behaviour: Behaviour | Contract, settings: ControllerSettings) -> None:
        self.world = world
        self.controller = ResidualController(world.arm, behaviour, settings)
        self._T_base_camera = world.camera.contract.T_base_camera.matrix()
        self._answers: deque[tuple[Residual, Percept | None]] = deque()

    def reset(self, seed: int) -> None:
        """A new episode."""
        self.controller.on_episode_reset(self.world.stamp_ns)
        self.world.reset(seed)
        self._answers.clear()
        self.frame_joint_state = self.world.joint_state()

    def answer(self, residual: Residual, percept: Percept | None = None) -> None:
        """What policy and perception make of a captured frame; held back until that frame's delivery."""
        self._answers.append((residual, percept))

    def advance(self) -> bool:
        """Run to the next captured frame; False where the episode ended instead."""
        world, controller = self.world, self.controller
        while True:
            now = world.stamp_ns
            for frame in world.delivered_frames():
                # Pictures come before the joints of their tick: the controller's clock still shows the tick before.
                received = world.stamp_of(world.tick - 1)
                while self._answers and self._answers[0][0].stamp_ns <= frame.stamp_ns:
                    residual, percept = self._answers.popleft()
                    if percept is not None:
                        xyz, covariance = in_base_frame(percept, self._T_base_camera)
                        controller.on_object_pose(xyz, covariance, frame.stamp_ns, received)
                        controller.on_domain_shift(percept.domain_shift, frame.stamp_ns, received)
                    controller.on_residual(residual, received)
            controller.on_joint_state(world.joint_state(), now)
            command = controller.tick(now, now)
            world.step(command.trajectory, command.gripper_width)
            if world.outcome is not None:
                return False
            if world.captured:
                self.frame_joint_state = world.joint_state()
                return True


class ManipulationEnv(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """One arm, one task, one camera.

    `observation`: "pixels" (image uint8 [H, W, 3]), "features" (of `perceiver`, stacked as the policy sees them),
    "state" (privileged, float32), or "both" (pixels and state); joints and goal come with each. Actions are [-1, 1] for
    each component of the task's action contract. `info` has the privileged state, the episode's sample and `success`.

    `perceiver` is an encoder, or a `FeatureErrorModel`: the truth with an encoder's errors. With that, and with
    "state" unless it is rendered, no picture is drawn at all. A base controller that goes by the object's pose is given
    the true one here, which is for training; evaluation plays a `Deployment` with what perception says.

    `seed` fixes all episodes: episode n has seed `seed + n * seed_step`; `reset(seed=...)` starts that count anew.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium's own declaration

    def __init__(
        self,
        task: str = "reach",
        arm: str | Arm = "panda",
        profile: str | Profile = "train",
        observation: ObservationKind = "pixels",
        perceiver: Perceiver | FeatureErrorModel | None = None,
        image_size: int | None = None,
        scene: Scene | None = None,
        behaviour: Behaviour | None = None,
        settings: ControllerSettings = SIMULATION_SETTINGS,
        observed: ObservationContract | None = None,
        seed: int = 0,
        seed_step: int = 1,
        render_mode: str | None = None,
    ) -> None:
        if (observation == "features") != (perceiver is not None):
            raise ConfigurationError(
                f"observation is {observation!r} and perceiver is {perceiver!r}; give a perceiver with 'features' only"
            )
        arm = load_arm(arm) if isinstance(arm, str) else arm
        profile = load_profile(profile) if isinstance(profile, str) else profile
        self.world = World(arm, load_task(task), profile, scene or load_scene(image_size=image_size, arm=arm.name))
        self.behaviour = behaviour or BEHAVIOURS[task]
        self._deployment = Deployment(self.world, self.behaviour, settings)
        self._observed = observed or ObservationContract()
        self._observer = Observer(arm, self._observed)
        self._kind, self._perceiver = observation, perceiver
        self._errors: FeatureErrors | None = None
        self.world.blind = render_mode is None and (observation == "state" or isinstance(perceiver, FeatureErrorModel))
        self._guided = self.behaviour.base_controller.name in GUIDED
        self.render_mode = render_mode
        self._next_seed, self._seed_step = seed, seed_step
        self.action_size = len(self.behaviour.action.components)
        self.action_space = gymnasium.spaces.Box(-1, 1, (self.action_size,), np.float32)
        self.observation_space = self._space()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._next_seed = seed
        self._begin(self._next_seed)
        self._next_seed += self._seed_step
        self._ended = False
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        action = np.asarray(action, np.float64)
        if action.shape != (self.action_size,) or not np.isfinite(action).all():
            raise ValueError(f"action is {action}, expected {self.action_size} finite values in [-1, 1]")
        if self._ended:
            raise gymnasium.error.ResetNeeded("the episode has ended; call reset() before step()")
        residual = residual_of(
            np.clip(action, -1, 1), self.behaviour.action, self.world.image_stamp_ns, self.world.arm.joint_names
        )
        self._deployment.answer(residual, self._true_percept() if self._guided else None)
        self._ended = not self._deployment.advance()
        outcome = self.world.outcome
        success = outcome is not None and outcome.success
        reward = self.world.task.reward(self.world, success)
        return self._observe(), reward, success, self._ended and not success, self._info()

    def render(self) -> np.ndarray:
        """The last picture, uint8 [H, W, 3]."""
        return self.world.picture() if self.world.blind else self.world.image

    @property
    def joint_state(self) -> JointState:
        """The measured joints at the time of the last picture, as in the last observation."""
        return self._deployment.frame_joint_state

    def close(self) -> None:
        self.world.close()

    def _begin(self, seed: int) -> None:
        self._deployment.reset(seed)
        self._observer.reset()
        if isinstance(self._perceiver, FeatureErrorModel):
            self._errors = FeatureErrors(self._perceiver, stream(seed, "features"))

    def _features(self) -> np.ndarray:
        if self._errors is not None:
            return self._errors(self.world.keypoints())
        return NO_FEATURES if self._perceiver is None else self._perceiver(self.world.image)  # type: ignore[operator]

    def _true_percept(self) -> Percept:
        """The object as a perfect perception would see it in the frame just captured."""
        T_camera_base = np.linalg.inv(self.world.camera.contract.T_base_camera.matrix())
        pose = np.zeros(7, np.float32)
        position, _ = self.world.task.object_pose(self.world)
        pose[:3], pose[6] = T_camera_base[:3, :3] @ position + T_camera_base[:3, 3], 1.0
        return Percept(NO_IMAGE, NO_FEATURES, pose, np.zeros((6, 6), np.float32), np.zeros(0, np.float32), 0.0)

    def _observe(self) -> dict[str, np.ndarray]:
        world = self.world
        joint_state = self.joint_state
        goal = world.task.goal(world)
        features = self._features()
        observation = self._observer.observe(features, joint_state, goal)
        if self._kind != "features":
            del observation["features"]
        if self._kind in ("pixels", "both"):
            observation["image"] = world.image
        if self._kind in ("state", "both"):
            observation["state"] = world.task.privileged_state(world)
        return observation

    def _info(self) -> dict[str, Any]:
        outcome = self.world.outcome
        return {
            "privileged_state": self.world.task.privileged_state(self.world),
            "sample": self.world.sample,
            "success": outcome is not None and outcome.success,
            "distance_m": self.world.task.distance(self.world),
        }

    def _space(self) -> gymnasium.Space[dict[str, np.ndarray]]:
        def real(*shape: int) -> gymnasium.spaces.Box:
            return gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)

        camera = self.world.camera.contract
        spaces: dict[str, gymnasium.Space[Any]] = {
            "proprioception": real(self._observer.proprioception_size),
            "goal": real(3),
            "goal_mask": gymnasium.spaces.Box(0, 1, (1,), np.float32),
        }
        self._begin(0)  # sizes of features and state are the perceiver's and the task's own affair
        if self._perceiver is not None:
            spaces["features"] = real(self._observed.feature_stack, *self._features().shape)
        if self._kind in ("pixels", "both"):
            spaces["image"] = gymnasium.spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8)
        if self._kind in ("state", "both"):
            spaces["state"] = real(*self.world.task.privileged_state(self.world).shape)
        return gymnasium.spaces.Dict(spaces)  # type: ignore[return-value]


def register_environments() -> None:
    """Make `gymnasium.make("rlfp_ros/Reach-v0")` work; called when `rlfp_ros.simulation.environment` is imported."""
    for task in BEHAVIOURS:
        identifier = f"rlfp_ros/{task.capitalize()}-v0"
        if identifier not in gymnasium.registry:
            gymnasium.register(
                identifier, entry_point="rlfp_ros.simulation.environment:ManipulationEnv", kwargs={"task": task}
            )


register_environments()
