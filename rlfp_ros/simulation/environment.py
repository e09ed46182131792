"""The Gymnasium environment: steps a world from one decision to the next, with the deployed controller inside.

One `step` is one decision: one image, or `images_per_decision` images for which the action is held. The action takes
effect when its image would have reached the policy, through the same residual controller and limits that run on an arm.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium
import numpy as np

from rlfp_ros.control.action_and_base import ActionAndBase
from rlfp_ros.control.actions import action_of, decides, residual_of
from rlfp_ros.control.arm import Arm, JointState, load_arm
from rlfp_ros.control.base_controllers.base_controller import BASE_CONTROLLERS
from rlfp_ros.control.observation import ObservationContract, Observer
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.perception.encoder import Percept
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.seeds import DRAWN, CountedSeeds
from rlfp_ros.simulation.deployment import SIMULATION_SETTINGS, Deployment, Moment
from rlfp_ros.simulation.feature_error import FeatureErrorModel, FeatureErrors
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import Profile, load_profile, stream
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.recorded_scene import RecordedScene
from rlfp_ros.simulation.tasks.task import Task, load_task

Perceiver = Callable[[np.ndarray], np.ndarray]  # image uint8 [H, W, 3] -> features float32 [K, 3]
ObservationKind = Literal["pixels", "features", "state", "both"]

NO_IMAGE = np.zeros((0, 0, 3), np.uint8)
NO_FEATURES = np.zeros((1, 3), np.float32)


@dataclass(frozen=True)
class CameraFrame:
    """One image, and what the simulator knows at its exposure."""

    stamp_ns: int
    image: np.ndarray  # uint8 [H, W, 3] rgb
    joint_state: JointState
    goal: np.ndarray | None  # [3] m
    privileged_state: np.ndarray
    distance_m: float
    keypoints: np.ndarray | None  # [K, 2], if an error model makes features of them
    percept: Percept | None  # of a perfect perception, if the base controller follows the object
    scene: RecordedScene | None  # if the environment records scenes


class _Phase(enum.Enum):
    NEW = "has not begun"
    RUNNING = "runs"
    ENDED = "has ended"
    CLOSED = "cannot begin any more"


class ManipulationEnv(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """One arm, one task and one camera in PyBullet.

    Actions are [A] in [-1, 1], one for each component of the task's action contract. Observations are a dictionary
    with `proprioception`, `goal` [3] m and `goal_mask` [1], and what `observation` and `observed` add. `info` holds the
    privileged state, the episode's sample of the profile, `success` and `distance_m`.

    A step plays one decision of `behaviour.action`. If the policy decides on every k-th image
    (`action.deciding_every(k)`), the action is held for the images in between, and the reward is the sum of the task's
    rewards at the camera's images during the step; success ends it at once. The first image of an episode decides;
    `control.actions.decides` says which ones follow, also if images are lost.

    Without past actions a step ends when the image of the next decision is taken. With past actions it ends when that
    image is delivered, because the actions that the controller admits until then are part of the observation.
    Everything else in the observation and in `info` is of the time of the image's exposure in both cases. A reward
    belongs to the step during which its frame was taken; frames taken before the first delivery have none.

    `reset(seed=s)` plays episode s, the same one everywhere. Without a seed, the seeds of episodes are drawn from a
    stream that the last given seed starts, or from fresh entropy if none was given.

    Parameters
    ----------
    task
        Name of a task, or a task.
    arm
        Name of an arm in `config/arms`, path of an arm file, or an arm.
    profile
        Name of a randomisation profile, path of one, or a profile.
    observation
        "pixels" adds `image` (uint8 [H, W, 3]), "state" adds `state` (privileged, float32), "both" adds both, and
        "features" adds `features` (float32 [stack, K, 3]) of `perceiver`.
    perceiver
        For "features": an encoder (image -> float32 [K, 3]), or a `FeatureErrorModel`, which adds an encoder's errors
        to the true keypoints. Nothing is rendered then, nor with "state", unless `render_mode` is given.
    image_size
        Width and height of the image, pixels; by default the scene's.
    behaviour
        Action contract and base controller, by default the task's. A base controller that follows the object's pose
        is given the true one here; evaluation plays a `Deployment` with what perception reports.
    observed
        How features and joints are stacked into the observation. With `past_actions` N above 0, observations of every
        kind also have `past_actions` (float32 [N, A], newest last): what the controller admitted.
    seeds
        Counts the seeds of episodes instead of drawing them.
    render_mode
        "rgb_array" or None.

    Attributes
    ----------
    on_held : callable or None
        Called with each image for which the action of the last decision is held, before it is answered.
    records_scenes : bool
        Whether to record the scene at each image; `scene` returns it.

    Raises
    ------
    ConfigurationError
        If an argument is unknown or does not fit the others.
    """

    _frame: CameraFrame  # that of the observation

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 - Gymnasium's own declaration

    def __init__(
        self,
        task: str | Task = "reach",
        arm: str | Path | Arm = "panda",
        profile: str | Path | Profile = "train",
        observation: ObservationKind = "pixels",
        perceiver: Perceiver | FeatureErrorModel | None = None,
        image_size: int | None = None,
        *,
        behaviour: ActionAndBase | None = None,
        observed: ObservationContract | None = None,
        seeds: CountedSeeds | None = None,
        render_mode: str | None = None,
    ) -> None:
        self._phase = _Phase.CLOSED  # until the construction has succeeded
        _check(observation, perceiver, render_mode)
        arm = arm if isinstance(arm, Arm) else load_arm(arm)
        task = task if isinstance(task, Task) else load_task(task)
        profile = profile if isinstance(profile, Profile) else load_profile(profile)
        self.world = PybulletWorld(arm, task, profile, load_scene(image_size=image_size, arm=arm))
        self.behaviour = behaviour or task
        if self.behaviour.action.rate_fault:
            raise ConfigurationError(f"behaviour: {self.behaviour.action.rate_fault}")
        self.deployment = Deployment(self.world, self.behaviour, SIMULATION_SETTINGS)
        self._observed = observed or ObservationContract()
        self.action_size = len(self.behaviour.action.components)
        self._observer = Observer(arm, self._observed, self.action_size)
        self._delayed = self._observed.decides_on_delivery
        self._on_way: deque[CameraFrame] = deque()  # captured and not yet delivered, if steps end with deliveries
        self.on_held: Callable[[CameraFrame], None] | None = None
        self.records_scenes = False
        self.deployment.on_applied.append(self._applied)
        self._kind = observation
        self._error_model = perceiver if isinstance(perceiver, FeatureErrorModel) else None
        self._perceive = None if isinstance(perceiver, FeatureErrorModel) else perceiver
        self._errors: FeatureErrors | None = None
        self.world.blind = render_mode is None and (observation == "state" or self._error_model is not None)
        self.world.is_seen = self._is_seen
        self._decision_ns: int | None = None  # stamp of the newest captured image that decides
        self._guided = BASE_CONTROLLERS[self.behaviour.base_controller.name].follows_object
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": round(self.world.camera.contract.rate_hz)}
        self._seeds, self._next_seed = seeds, seeds.first if seeds else 0
        self.action_space = gymnasium.spaces.Box(-1, 1, (self.action_size,), np.float32)
        self.observation_space = self._space()
        self._phase = _Phase.NEW

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode; see the class for its seed. There are no `options`, and any is refused."""
        self._require_open("reset")
        if options:
            raise ConfigurationError(f"options has {', '.join(map(str, options))}, expected none; leave them out")
        super().reset(seed=seed)
        self._begin(self._episode_seed(seed))
        if self._delayed:
            self._on_way.append(self._frame)
            while self._next_moment() is Moment.CAPTURED:
                self._on_way.append(self._capture())
            self._frame = self._on_way.popleft()
        self._phase = _Phase.RUNNING
        return self.observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Answer the observation's image with `action` [A], hold it, and run to the image of the next decision.

        Raises
        ------
        ValueError
            If the action has another shape or is not finite.
        gymnasium.error.ResetNeeded
            If no episode runs.
        """
        self._require_open("step")
        if self._phase is not _Phase.RUNNING:
            raise gymnasium.error.ResetNeeded(f"the episode {self._phase.value}; call reset() before step()")
        action = np.asarray(action, np.float64)
        if action.shape != (self.action_size,) or not np.isfinite(action).all():
            raise ValueError(f"action is {action}, expected {self.action_size} finite values in [-1, 1]")
        action = np.clip(action, -1, 1)
        self._answer(self._frame, action)
        reward = 0.0
        while True:
            moment = self._next_moment()
            if moment is Moment.DELIVERED:
                if not self._delayed:
                    continue
                frame = self._on_way.popleft()
            else:
                frame = self._capture()
                reward += self.world.task.reward(self.world, self._success)
                if moment is Moment.ENDED:
                    self._phase = _Phase.ENDED
                    break
                if self._delayed:
                    self._on_way.append(frame)
                    continue
            if decides(self.behaviour.action, self._frame.stamp_ns, frame.stamp_ns):
                break
            if self.on_held is not None:
                self.on_held(frame)
            self._answer(frame, action)
        self._frame = frame
        truncated = self._phase is _Phase.ENDED and not self._success
        return self.observe(), reward, self._success, truncated, self._info()

    def render(self) -> np.ndarray:
        """Return the observation's image, uint8 [H, W, 3] rgb."""
        self._require_open("render")
        if self._phase is _Phase.NEW:
            raise gymnasium.error.ResetNeeded("there is no image yet; call reset() before render()")
        return self.world.render() if self.world.blind else self._frame.image

    @property
    def joint_state(self) -> JointState:
        """The measured joints at the time of the observation's image."""
        return self._frame.joint_state

    @property
    def scene(self) -> RecordedScene:
        """The scene at the time of the observation's image; only with `records_scenes`, from the next reset on."""
        if self._frame.scene is None:
            raise RuntimeError("the scene was not recorded; set records_scenes before reset()")
        return self._frame.scene

    @property
    def image_stamp_ns(self) -> int:
        """Stamp of the observation's image, ns."""
        return self._frame.stamp_ns

    def close(self) -> None:
        """Free the simulator's memory. Closing again does nothing."""
        if self._phase is not _Phase.CLOSED:
            self._phase = _Phase.CLOSED
            self.world.close()

    def _require_open(self, called: str) -> None:
        if self._phase is _Phase.CLOSED:
            raise gymnasium.error.ClosedEnvironmentError(f"{called}() after close(); make another environment")

    def _episode_seed(self, given: int | None) -> int:
        if self._seeds is None:
            return int(self.np_random.integers(DRAWN.first, DRAWN.stop)) if given is None else given
        seed = self._next_seed if given is None else given
        self._next_seed = seed + self._seeds.step
        return seed

    def _begin(self, seed: int) -> None:
        self._decision_ns = None
        self.deployment.reset(seed)
        self._observer.reset()
        self._on_way.clear()
        if self._error_model is not None:
            self._errors = FeatureErrors(self._error_model, stream(seed, "features"))
        self._frame = self._capture()

    def _next_moment(self) -> Moment:
        return Moment.ENDED if self.world.outcome is not None else self.deployment.next_moment()

    def _is_seen(self, stamp_ns: int) -> bool:
        """Return whether an image will be used: a decision's, an episode's last one, or any for `on_held`."""
        used = self.on_held is not None or self.world.outcome is not None
        return used or decides(self.behaviour.action, self._decision_ns, stamp_ns)

    def _capture(self) -> CameraFrame:
        """Return the newest image with what is known at its exposure."""
        world, task = self.world, self.world.task
        if decides(self.behaviour.action, self._decision_ns, world.image_stamp_ns):
            self._decision_ns = world.image_stamp_ns
        recorded = RecordedScene(world, world.task_bodies) if self.records_scenes else None
        scene = recorded or world
        return CameraFrame(
            world.image_stamp_ns,
            world.image,
            self.deployment.frame_joint_state,
            task.goal(scene),
            task.privileged_state(scene),
            task.distance(scene),
            world.keypoints() if self._errors is not None else None,
            self._true_percept() if self._guided else None,
            recorded,
        )

    def _answer(self, frame: CameraFrame, action: np.ndarray) -> None:
        residual = residual_of(action, self.behaviour.action, frame.stamp_ns, self.world.arm.joint_names)
        self.deployment.answer(residual, frame.percept)

    def _applied(self, admitted: Residual) -> None:
        if self._observed.past_actions:
            names = self.world.arm.joint_names
            self._observer.saw_applied(admitted.stamp_ns, action_of(admitted, self.behaviour.action, names))

    def _features(self) -> np.ndarray:
        if self._errors is not None:
            assert self._frame.keypoints is not None
            return self._errors(self._frame.keypoints)
        return NO_FEATURES if self._perceive is None else self._perceive(self._frame.image)

    def _true_percept(self) -> Percept:
        """Return the percept of a perfect perception for the frame just captured."""
        T_camera_base = np.linalg.inv(self.world.camera.contract.T_base_camera.matrix())
        pose = np.zeros(7, np.float32)
        position, _ = self.world.task.object_pose(self.world)
        pose[:3], pose[6] = T_camera_base[:3, :3] @ position + T_camera_base[:3, 3], 1.0
        return Percept(NO_IMAGE, NO_FEATURES, pose, np.zeros((6, 6), np.float32), np.zeros(0, np.float32), 0.0)

    @property
    def _success(self) -> bool:
        outcome = self.world.outcome
        return outcome is not None and outcome.success

    def observe(self) -> dict[str, np.ndarray]:
        """Return the observation of the present decision, and remember its features; `reset` and `step` call it."""
        frame = self._frame
        observation = self._observer.observe(self._features(), frame.joint_state, frame.goal)
        if self._kind != "features":
            del observation["features"]
        if self._kind in ("pixels", "both"):
            observation["image"] = frame.image
        if self._kind in ("state", "both"):
            observation["state"] = frame.privileged_state
        return observation

    def _info(self) -> dict[str, Any]:
        frame = self._frame
        return {
            "privileged_state": frame.privileged_state.copy(),
            "sample": self.world.sample,
            "success": self._success,
            "distance_m": frame.distance_m,
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
        if self._observed.past_actions:
            spaces["past_actions"] = gymnasium.spaces.Box(
                -1, 1, (self._observed.past_actions, self.action_size), np.float32
            )
        self._begin(0)  # an episode shows the sizes of features and state
        if self._kind == "features":
            spaces["features"] = real(self._observed.feature_stack, *self._features().shape)
        if self._kind in ("pixels", "both"):
            spaces["image"] = gymnasium.spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8)
        if self._kind in ("state", "both"):
            spaces["state"] = real(*self.world.task.privileged_state(self.world).shape)
        return gymnasium.spaces.Dict(spaces)  # type: ignore[return-value]  # Gymnasium types a Dict space by Any


def _check(observation: str, perceiver: Any, render_mode: str | None) -> None:
    kinds = get_args(ObservationKind)
    if observation not in kinds:
        raise ConfigurationError(f"observation is {observation!r}, expected one of: {', '.join(kinds)}")
    if (observation == "features") != (perceiver is not None):
        raise ConfigurationError(
            f"observation is {observation!r} and perceiver is {perceiver!r}; give a perceiver with 'features' only"
        )
    if perceiver is not None and not callable(perceiver) and not isinstance(perceiver, FeatureErrorModel):
        raise ConfigurationError(f"perceiver is {perceiver!r}, expected a function of an image or a FeatureErrorModel")
    if render_mode not in (None, "rgb_array"):
        raise ConfigurationError(
            f"render_mode is {render_mode!r}, expected 'rgb_array' or None; gymnasium.make shows a window for 'human'"
        )
