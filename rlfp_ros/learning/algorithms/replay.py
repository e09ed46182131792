"""Experience replay of single frames: stacks and n-step returns are put together when a batch is drawn.

A picture is kept once, however many stacks it is part of.
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rlfp_ros.learning.algorithms.networks import Observation


@dataclass(frozen=True)
class Batch:
    """Transitions over up to n steps: `next_observation` is worth `discount` of its value, nothing after a terminal."""

    observation: Observation
    action: Tensor  # [B, A] float32, or [B] int64 where actions are discrete
    reward: Tensor  # [B], discounted sum
    discount: Tensor  # [B]
    next_observation: Observation


class ReplayBuffer:
    """The last `capacity` frames of one environment."""

    def __init__(
        self, capacity: int, space: gymnasium.spaces.Dict, action: np.ndarray, discount: float, steps: int = 1
    ) -> None:
        """`action` is an example, for shape and type; `steps` is the n of n-step returns."""
        self._discount, self._steps = discount, steps
        self._capacity, self._count = capacity, 0
        shape = space["vector"].shape or ()
        self._vectors = np.zeros((capacity, *shape), np.float32)
        self._stack = 0
        if "image" in space.spaces:
            height, width, channels = space["image"].shape or ()
            self._stack = channels // 3
            self._frames = np.zeros((capacity, height, width, 3), np.uint8)
        self._actions = np.zeros((capacity, *action.shape), action.dtype)
        self._rewards = np.zeros(capacity, np.float32)
        self._terminated = np.zeros(capacity, bool)
        self._ended = np.zeros(capacity, bool)  # with the step from this row to the next
        self._age = np.zeros(capacity, np.int64)  # steps since the episode began
        self._final = np.zeros(capacity, bool)  # no step leads on from this row

    def __len__(self) -> int:
        return min(self._count, self._capacity)

    def begin(self, observation: dict[str, np.ndarray]) -> None:
        """The first observation of an episode."""
        self._write(observation, age=0)

    def add(
        self, action: np.ndarray, reward: float, terminated: bool, truncated: bool, observation: dict[str, np.ndarray]
    ) -> None:
        """A step from the last observation to this one."""
        row = (self._count - 1) % self._capacity
        self._actions[row], self._rewards[row] = action, reward
        self._terminated[row], self._ended[row] = terminated, terminated or truncated
        self._write(observation, age=int(self._age[row]) + 1)
        self._final[(self._count - 1) % self._capacity] = terminated or truncated

    def _write(self, observation: dict[str, np.ndarray], age: int) -> None:
        row = self._count % self._capacity
        self._vectors[row] = observation["vector"]
        if self._stack:
            self._frames[row] = observation["image"][..., -3:]
        self._age[row], self._final[row], self._ended[row] = age, False, False
        self._count += 1

    def sample(self, batch: int, rng: np.random.Generator) -> Batch:
        """Transitions drawn uniformly, whole stacks only."""
        oldest = self._count - len(self)
        first = oldest + max(0, self._stack - 1) if oldest else 0
        start = rng.integers(first, self._count - 1, batch)
        while (bad := self._final[start % self._capacity]).any():
            start[bad] = rng.integers(first, self._count - 1, int(bad.sum()))
        position, going = start.copy(), np.ones(batch, bool)
        reward, discount = np.zeros(batch, np.float32), np.ones(batch, np.float32)
        for _ in range(self._steps):
            row = position % self._capacity
            reward += np.where(going, discount * self._rewards[row], 0)
            discount *= np.where(going, self._discount * ~self._terminated[row], 1)
            position += going
            going &= ~self._ended[row] & (position < self._count - 1)
        return Batch(
            self._observation(start), torch.from_numpy(self._actions[start % self._capacity]), torch.from_numpy(reward),
            torch.from_numpy(discount), self._observation(position),
        )  # fmt: skip

    def _observation(self, index: np.ndarray) -> Observation:
        row = index % self._capacity
        observation = {"vector": torch.from_numpy(self._vectors[row])}
        if self._stack:
            back = np.arange(self._stack - 1, -1, -1)  # newest last; an episode's first frame fills its stack
            picks = (index[:, None] - np.minimum(back, self._age[row][:, None])) % self._capacity
            frames = self._frames[picks].transpose(0, 2, 3, 1, 4)  # [B, H, W, stack, 3]
            observation["image"] = torch.from_numpy(frames.reshape(*frames.shape[:3], -1))
        return observation
