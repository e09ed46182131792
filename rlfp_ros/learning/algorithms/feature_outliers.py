"""Adds outliers to an encoder's feature points while a policy learns, so that its memory gives them little weight.

An encoder that meets an appearance its training never showed takes something else for a point, for one decision or for
many in a row, and is usually less confident then. Under the profile of its training that is too rare to be learned.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, cast

import gymnasium
import numpy as np

from rlfp_ros.simulation.randomization import stream

Observation = dict[str, np.ndarray]


@dataclass(frozen=True)
class OutlierSettings:
    """How often feature points are outliers, and how they look."""

    share: float = 0.1  # largest share of an episode's decisions; each point draws its own, usually a smaller one
    decisions: float = 3.0  # mean length
    spread: float = 0.15  # standard deviation of the distance from the point, on the plane z = 1 of the optical frame
    confidence: float = 0.5  # largest factor of the confidence


class FeatureOutliers(gymnasium.Wrapper[Observation, np.ndarray, Observation, np.ndarray]):
    """An environment that observes `features` [stack, K, 3], with outliers.

    An episode's outliers depend on its seed alone.
    """

    def __init__(self, env: gymnasium.Env[Observation, np.ndarray], settings: OutlierSettings) -> None:
        super().__init__(env)
        self._settings = settings
        stack, points, _ = cast(gymnasium.spaces.Dict, env.observation_space)["features"].shape or ()
        self._points: int = points
        self._frames: deque[np.ndarray] = deque(maxlen=stack)  # as they were shown
        self._begin(None)

    def reset(self, *, seed: int | None = None, **arguments: Any) -> tuple[Observation, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, **arguments)
        self._begin(seed)
        return self._disturbed(observation), info

    def step(self, action: np.ndarray) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._disturbed(observation), reward, terminated, truncated, info

    def _begin(self, seed: int | None) -> None:
        self._rng = np.random.default_rng() if seed is None else stream(seed, "outliers")
        self._share: np.ndarray = self._settings.share * self._rng.uniform(size=self._points) ** 2
        self._out = np.zeros(self._points, bool)  # the points that are outliers now,
        self._place = np.zeros((self._points, 2), np.float32)  # where,
        self._confidence = np.ones(self._points, np.float32)  # and with which factor of the confidence
        self._frames.clear()

    def _disturbed(self, observation: Observation) -> Observation:
        """Return the observation with the newest features disturbed, and the older ones as they were shown."""
        newest = self._disturb(observation["features"][-1])
        if not self._frames:
            self._frames.extend([newest] * (self._frames.maxlen or 1))
        else:
            self._frames.append(newest)
        return observation | {"features": np.stack(self._frames)}

    def _disturb(self, features: np.ndarray) -> np.ndarray:
        """Return one frame of features [K, 3] with the outliers of this decision."""
        settings, rng, points = self._settings, self._rng, self._points
        goes_on = self._out & (rng.uniform(size=points) > 1 / settings.decisions)
        starts = ~self._out & (rng.uniform(size=points) < self._share / (1 - self._share) / settings.decisions)
        place = features[:, :2] + settings.spread * rng.standard_normal((points, 2))
        self._place[starts] = place[starts]
        self._confidence[starts] = rng.uniform(0, settings.confidence, points)[starts]
        self._out = goes_on | starts
        disturbed = features.copy()
        disturbed[self._out, :2] = self._place[self._out]
        disturbed[self._out, 2] *= self._confidence[self._out]
        return disturbed
