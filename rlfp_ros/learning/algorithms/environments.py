"""Environments for the algorithms: observations are one vector, plus stacked frames if a policy learns from pixels."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import gymnasium
import numpy as np

from rlfp_ros.contract import onnx_session
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.policy import ObservationContract
from rlfp_ros.seeds import EXPERIENCE
from rlfp_ros.simulation.randomization import Profile, load_profile

if TYPE_CHECKING:
    from rlfp_ros.simulation.environment import ManipulationEnv

ObservationKind = Literal["pixels", "features", "state"]
# Parts of the vector, in this order, if they exist.
PARTS = ("features", "state", "proprioception", "goal", "goal_mask", "past_actions")

Environment = gymnasium.Env[dict[str, np.ndarray], np.ndarray]


class EnvironmentMaker(Protocol):
    """Builds an environment with the observations of `LearningObservation` and actions in [-1, 1].

    `reset(seed=...)` determines the episode; `info["episode"]` exists at the end of an episode. Picklable, because
    A3C's workers build their own environments.
    """

    def __call__(self) -> Environment:
        """Build the environment."""


def episode_seeds(seed: int, step: int = 0, worker: int = 0) -> Iterator[int]:
    """Return the seeds of the episodes that one worker of a training plays.

    Parameters
    ----------
    seed
        Of the training.
    step
        Environment steps taken before, if the training is resumed; earlier episodes are not played again.
    worker
        Number of the worker.
    """
    return iter(EXPERIENCE.of_training(seed, worker, step))


def shapes(env: Environment) -> tuple[gymnasium.spaces.Dict, int]:
    """Return the space of the observations, and the number of components of an action."""
    return cast(gymnasium.spaces.Dict, env.observation_space), int(np.prod(env.action_space.shape or ()))


class LearningObservation(gymnasium.Wrapper[dict[str, np.ndarray], np.ndarray, Any, np.ndarray]):
    """Splits observations into `vector` float32 [V] and `image` uint8 [H, W, 3 stack], the last frames, newest last.

    An episode's first frame fills the whole stack (Mnih et al. 2015, https://doi.org/10.1038/nature14236). At the end
    of an episode `info` holds the `episode` of RecordEpisodeStatistics.

    Parameters
    ----------
    env
        The environment.
    frame_stack
        Images in an observation.
    privileged
        Size of the simulator's privileged state, or 0. If above 0, the part `privileged` is added for critics and
        experts: the vector of an observation of the state, and the last action if there are no past actions.
    """

    def __init__(self, env: gymnasium.Env[Any, np.ndarray], frame_stack: int = 1, privileged: int = 0) -> None:
        super().__init__(gymnasium.wrappers.RecordEpisodeStatistics(env))
        space = env.observation_space
        self._parts: list[str] = []
        self._privileged_parts: list[str] = []  # parts that are also privileged
        self.observation: dict[str, np.ndarray] = {}  # the last one, before it was split
        self._frames: deque[np.ndarray] = deque(maxlen=frame_stack)
        spaces: dict[str, gymnasium.Space[Any]] = {}
        if isinstance(space, gymnasium.spaces.Dict):
            self._parts = [name for name in PARTS if name in space.spaces]
            size = sum(int(np.prod(space[name].shape or ())) for name in self._parts)
            if "image" in space.spaces:
                height, width, channels = space["image"].shape or ()
                spaces["image"] = gymnasium.spaces.Box(0, 255, (height, width, channels * frame_stack), np.uint8)
        else:
            size = int(np.prod(space.shape or ()))
        self._privileged, self._action = privileged, np.zeros(env.action_space.shape or (), np.float32)
        if privileged:
            assert isinstance(space, gymnasium.spaces.Dict)
            self._privileged_parts = [name for name in self._parts if name not in ("features", "state")]
            known = privileged + sum(int(np.prod(space[name].shape or ())) for name in self._privileged_parts)
            if "past_actions" not in self._privileged_parts:
                known += self._action.size
            spaces["privileged"] = gymnasium.spaces.Box(-np.inf, np.inf, (known,), np.float32)
        spaces["vector"] = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(spaces)  # type: ignore[assignment]

    def reset(self, **arguments: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        observation, info = self.env.reset(**arguments)
        self._frames.clear()
        self._action = np.zeros_like(self._action)
        return self._observation(observation, info), info

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._action = np.asarray(action, np.float32)
        return self._observation(observation, info), float(reward), terminated, truncated, info

    def vector_of(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Return the parts of an observation as one vector, float32 [V]."""
        return np.concatenate([observation[name].ravel() for name in self._parts]).astype(np.float32)

    def _observation(self, observation: Any, info: dict[str, Any]) -> dict[str, np.ndarray]:
        if not isinstance(observation, dict):
            return {"vector": np.asarray(observation, np.float32).ravel()}
        self.observation = observation
        split = {"vector": self.vector_of(observation)}
        if self._privileged:
            parts = [info["privileged_state"], *(observation[name].ravel() for name in self._privileged_parts)]
            if "past_actions" not in self._privileged_parts:
                parts.append(self._action)
            split["privileged"] = np.concatenate(parts).astype(np.float32)
        if "image" in observation:
            if not self._frames:
                self._frames.extend([observation["image"]] * (self._frames.maxlen or 1))
            else:
                self._frames.append(observation["image"])
            split["image"] = np.concatenate(self._frames, axis=-1)
        return split


@dataclass(frozen=True)
class TaskEnvironment:
    """Builds the environment of a task."""

    task: str
    arm: str | Arm = "panda"
    profile: str | Profile = "train"
    observation: ObservationKind = "pixels"
    image_size: int = 32  # px; of images that a policy learns from; features come from the encoder's own size
    frame_stack: int = 1  # images in an observation
    encoder: Path | None = None  # encoder.onnx, for features
    feature_stack: int = ObservationContract().feature_stack  # frames of features in an observation
    images_per_decision: int = 1  # images for which an action is held
    past_actions: int = 0  # admitted actions in an observation
    privileged: bool = False  # whether observations also hold the simulator's state, for critics

    def __call__(self) -> Environment:
        """Build the environment, with the observations of `LearningObservation`."""
        env = self.plain()
        privileged = 0
        if self.privileged:
            privileged = len(env.world.task.privileged_state(env.world))
        return LearningObservation(env, self.frame_stack, privileged)

    def plain(self) -> ManipulationEnv:
        """Build the environment without a wrapper."""
        from rlfp_ros.perception.encoder import OnnxEncoder
        from rlfp_ros.simulation.deployment import Behaviour
        from rlfp_ros.simulation.environment import ManipulationEnv
        from rlfp_ros.simulation.tasks.task import TASKS

        profile = load_profile(self.profile) if isinstance(self.profile, str) else self.profile
        perceiver, size = None, self.image_size
        if self.observation == "features":
            assert self.encoder is not None
            session = onnx_session(self.encoder)
            encoder = OnnxEncoder(session)
            perceiver, size = (lambda image: encoder(image)[0]), int(session.get_inputs()[0].shape[1])
        task = TASKS[self.task]
        return ManipulationEnv(
            self.task,
            self.arm,
            profile,
            self.observation,
            perceiver,
            image_size=size,
            behaviour=Behaviour(task.action.deciding_every(self.images_per_decision), task.base_controller),
            observed=ObservationContract(feature_stack=self.feature_stack, past_actions=self.past_actions),
        )
