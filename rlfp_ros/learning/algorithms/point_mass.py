"""A task whose steps take microseconds: a point on a plane moves to the goal of the episode.

For tests, and for comparing the computing time of algorithms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from rlfp_ros.learning.algorithms.environments import Environment, LearningObservation

STEP = 0.2  # how far an action of 1 moves the point
LIMIT = 16  # steps in an episode
SIZE = 16  # px of the image; the goal is red, the point green


class PointMass(gymnasium.Env[Any, np.ndarray]):
    """The reward is minus the distance to the goal. Without motion the return is about -17, at best about -2.5."""

    def __init__(self, pixels: bool = False) -> None:
        self._pixels = pixels
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        vector = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.observation_space = vector
        if pixels:
            image = gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
            point = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
            self.observation_space = gymnasium.spaces.Dict({"image": image, "proprioception": point})

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._point, self._goal = self.np_random.uniform(-1, 1, (2, 2))
        self._steps = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._point = np.clip(self._point + STEP * np.asarray(action), -1, 1)
        self._steps += 1
        distance = float(np.linalg.norm(self._point - self._goal))
        return self._observe(), -distance, False, self._steps == LIMIT, {"success": distance < 0.15}

    def _observe(self) -> Any:
        if not self._pixels:
            return np.concatenate([self._point, self._goal]).astype(np.float32)
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        for channel, place in enumerate((self._goal, self._point)):
            row, column = np.floor((place + 1) / 2 * (SIZE - 2) + 0.5).astype(int)
            image[row : row + 2, column : column + 2, channel] = 255
        return {"image": image, "proprioception": self._point.astype(np.float32)}


@dataclass(frozen=True)
class MakePointMass:
    """Builds a point mass environment; picklable."""

    pixels: bool = False
    frame_stack: int = 1

    def __call__(self) -> Environment:
        return LearningObservation(PointMass(self.pixels), self.frame_stack)
