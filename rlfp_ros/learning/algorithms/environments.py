"""Environments as the algorithms see them: one vector, and stacked frames where a policy learns from pixels."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import gymnasium
import numpy as np

from rlfp_ros.contract import onnx_session
from rlfp_ros.simulation.randomization import Profile, load_profile

ObservationKind = Literal["pixels", "features", "state"]
OBSERVATIONS: tuple[ObservationKind, ...] = ("pixels", "features", "state")
PARTS = ("features", "state", "proprioception", "goal", "goal_mask")  # of the vector, in this order, where they exist

TRAINING_SEEDS = 600_000_000

Environment = gymnasium.Env[dict[str, np.ndarray], np.ndarray]


class EnvironmentMaker(Protocol):
    """Builds an environment with the observations of `LearningObservation`, actions in [-1, 1] and `info["episode"]` at
    an episode's end; `reset(seed=...)` fixes all that follows. Picklable: A3C's workers build their own."""

    def __call__(self) -> Environment: ...


def episode_seed(seed: int, step: int = 0, worker: int = 0) -> int:
    """Of the first episode that a training with `seed` plays, or goes on with at `step`; evaluation's never meet it."""
    return TRAINING_SEEDS + seed * 1_000_000 + worker * 200_000 + step // 10


def shapes(env: Environment) -> tuple[gymnasium.spaces.Dict, int]:
    """The space of its observations, and how many components an action has."""
    return cast(gymnasium.spaces.Dict, env.observation_space), int(np.prod(env.action_space.shape or ()))


class LearningObservation(gymnasium.Wrapper[dict[str, np.ndarray], np.ndarray, Any, np.ndarray]):
    """`vector` float32 [V]: everything but the picture; `image` uint8 [H, W, 3 stack]: the last frames, newest last.

    An episode's first frame fills the whole stack (Mnih et al. 2015, https://doi.org/10.1038/nature14236). `info` gets
    RecordEpisodeStatistics' `episode` when one ends.
    """

    def __init__(self, env: gymnasium.Env[Any, np.ndarray], frame_stack: int = 1) -> None:
        super().__init__(gymnasium.wrappers.RecordEpisodeStatistics(env))
        space = env.observation_space
        self._parts: list[str] = []
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
        spaces["vector"] = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(spaces)  # type: ignore[assignment]

    def reset(self, **arguments: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        observation, info = self.env.reset(**arguments)
        self._frames.clear()
        return self._seen(observation), info

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._seen(observation), float(reward), terminated, truncated, info

    def _seen(self, observation: Any) -> dict[str, np.ndarray]:
        if not isinstance(observation, dict):
            return {"vector": np.asarray(observation, np.float32).ravel()}
        seen = {"vector": np.concatenate([observation[name].ravel() for name in self._parts]).astype(np.float32)}
        if "image" in observation:
            if not self._frames:
                self._frames.extend([observation["image"]] * (self._frames.maxlen or 1))
            else:
                self._frames.append(observation["image"])
            seen["image"] = np.concatenate(self._frames, axis=-1)
        return seen


@dataclass(frozen=True)
class TaskEnvironment:
    """An EnvironmentMaker for one of the project's tasks."""

    task: str
    arm: str = "panda"
    profile: str | Profile = "train"
    observation: ObservationKind = "pixels"
    image_size: int = 32  # px; of pictures that a policy learns from, features come from the encoder's own size
    frame_stack: int = 1  # pictures in an observation
    encoder: Path | None = None  # encoder.onnx, for features

    def __call__(self) -> Environment:
        from rlfp_ros.perception.encoder import OnnxEncoder
        from rlfp_ros.simulation.environment import CountedSeeds, ManipulationEnv

        profile = load_profile(self.profile) if isinstance(self.profile, str) else self.profile
        perceiver, size = None, self.image_size
        if self.observation == "features":
            assert self.encoder is not None
            session = onnx_session(self.encoder)
            encoder = OnnxEncoder(session)
            perceiver, size = (lambda image: encoder(image)[0]), int(session.get_inputs()[0].shape[1])
        env = ManipulationEnv(self.task, self.arm, profile, self.observation, perceiver, size, seeds=CountedSeeds())
        return LearningObservation(env, self.frame_stack)
