"""Experience replay of single frames. Stacks, n-step returns and sequences are assembled when a batch is drawn.

An image is stored once, even if it is part of several stacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rlfp_ros.learning.algorithms.networks import TensorObservation


@dataclass(frozen=True)
class TransitionBatch:
    """Transitions over up to n steps. The value of `next_observation` is weighted by `discount`, 0 after a terminal
    step."""

    observation: TensorObservation
    action: Tensor  # [B, A] float32, or [B] int64 if actions are discrete
    reward: Tensor  # [B], discounted sum
    discount: Tensor  # [B]
    next_observation: TensorObservation
    teacher: Tensor | None = None  # [B, A], the teacher's action

    def joined(self, other: TransitionBatch) -> TransitionBatch:
        """Return these transitions and others of the same kind, without the teacher's actions."""

        def both(one: TensorObservation, two: TensorObservation) -> TensorObservation:
            return {name: torch.cat([values, two[name]]) for name, values in one.items()}

        return TransitionBatch(
            both(self.observation, other.observation),
            torch.cat([self.action, other.action]),
            torch.cat([self.reward, other.reward]),
            torch.cat([self.discount, other.discount]),
            both(self.next_observation, other.next_observation),
        )


@dataclass(frozen=True)
class SequenceBatch:
    """Runs of L + 1 consecutive frames, with actions and rewards between them. A run may span several episodes."""

    observation: TensorObservation  # each [N, L + 1, ...]
    action: Tensor  # [N, L, A]
    reward: Tensor  # [N, L]
    discount: Tensor  # [N, L]
    starts: Tensor  # [N, L + 1] bool: an episode starts with this frame
    joined: Tensor  # [N, L] bool: the next frame is of the same episode
    teacher: Tensor | None = None  # [N, L, A]


class ReplayBuffer:
    """Stores the last `capacity` frames, of one environment or of several in turns.

    Parameters
    ----------
    capacity
        Frames that are kept.
    space
        Space of the observations: `vector`, perhaps `image` and `privileged`.
    action
        An example of an action, for shape and type.
    discount
        Discount of a step.
    steps
        The n of n-step returns.
    teacher
        Whether each step also has the teacher's action.
    """

    def __init__(
        self,
        capacity: int,
        space: gymnasium.spaces.Dict,
        action: np.ndarray,
        discount: float,
        steps: int = 1,
        teacher: bool = False,
    ) -> None:
        self._discount, self._steps = discount, steps
        self._capacity, self._count = capacity, 0
        self._stack = 0
        self._vectors = {
            name: np.zeros((capacity, *(part.shape or ())), np.float32)
            for name, part in space.spaces.items()
            if name != "image"
        }
        if "image" in space.spaces:
            height, width, channels = space["image"].shape or ()
            self._stack = channels // 3
            self._frames = np.zeros((capacity, height, width, 3), np.uint8)
        self._actions = np.zeros((capacity, *action.shape), action.dtype)
        self._teacher = np.zeros((capacity, *action.shape), np.float32) if teacher else None
        self._rewards = np.zeros(capacity, np.float32)
        self._terminated = np.zeros(capacity, bool)  # whether the step from this row ended the episode
        self._age = np.zeros(capacity, np.int64)  # steps since the episode began
        self._final = np.zeros(capacity, bool)  # whether no step starts at this row

    def __len__(self) -> int:
        return min(self._count, self._capacity)

    def begin(self, observation: dict[str, np.ndarray]) -> None:
        """Add the first observation of an episode, or of the continuation of an interrupted one."""
        if self._count:
            self._final[(self._count - 1) % self._capacity] = True
        self._write(observation, age=0)

    def add(
        self,
        action: np.ndarray,
        reward: float,
        terminated: bool,
        truncated: bool,
        observation: dict[str, np.ndarray],
        teacher: np.ndarray | None = None,
    ) -> None:
        """Add a step from the last observation to this one."""
        row = (self._count - 1) % self._capacity
        self._actions[row], self._rewards[row], self._terminated[row] = action, reward, terminated
        if self._teacher is not None:
            self._teacher[row] = teacher
        self._write(observation, age=int(self._age[row]) + 1)
        self._final[(self._count - 1) % self._capacity] = terminated or truncated

    def _write(self, observation: dict[str, np.ndarray], age: int) -> None:
        row = self._count % self._capacity
        for name, values in self._vectors.items():
            values[row] = observation[name]
        if self._stack:
            self._frames[row] = observation["image"][..., -3:]
        self._age[row], self._final[row] = age, False
        self._count += 1

    def mean_reward(self) -> float:
        """Return the mean reward of all stored steps."""
        count = len(self)
        return float(self._rewards[:count][~self._final[:count]].mean()) if count > 1 else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the stored frames, for a checkpoint."""
        count = len(self)
        arrays = self._arrays()
        return {"count": self._count} | {name: torch.from_numpy(values[:count]) for name, values in arrays.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`. The episode that was interrupted ends there."""
        self._count = state["count"]
        for name, values in self._arrays().items():
            values[: len(self)] = state[name].numpy()

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {f"vector {name}": values for name, values in self._vectors.items()} | {
            "action": self._actions,
            "reward": self._rewards,
            "terminated": self._terminated,
            "age": self._age,
            "final": self._final,
        }
        if self._stack:
            arrays["frame"] = self._frames
        if self._teacher is not None:
            arrays["teacher"] = self._teacher
        return arrays

    def kept(self, name: str) -> Tensor:
        """Return all stored values of the vector `name`, [N, size]."""
        return torch.from_numpy(self._vectors[name][: len(self)])

    def sample(self, batch: int, rng: np.random.Generator) -> TransitionBatch:
        """Draw transitions uniformly among those with complete stacks."""
        start = rng.integers(self._first(), self._count - 1, batch)
        while (bad := self._final[start % self._capacity]).any():
            start[bad] = rng.integers(self._first(), self._count - 1, int(bad.sum()))
        position, going = start.copy(), np.ones(batch, bool)
        reward, discount = np.zeros(batch, np.float32), np.ones(batch, np.float32)
        for _ in range(self._steps):
            row = position % self._capacity
            reward += np.where(going, discount * self._rewards[row], 0)
            discount *= np.where(going, self._discount * ~self._terminated[row], 1)
            position += going
            going &= ~self._final[position % self._capacity] & (position < self._count - 1)
        row = start % self._capacity
        return TransitionBatch(
            self._observation(start),
            torch.from_numpy(self._actions[row]),
            torch.from_numpy(reward),
            torch.from_numpy(discount),
            self._observation(position),
            None if self._teacher is None else torch.from_numpy(self._teacher[row]),
        )

    def sample_sequences(self, count: int, length: int, rng: np.random.Generator) -> SequenceBatch:
        """Draw `count` runs of `length` steps uniformly."""
        start = rng.integers(self._first(), self._count - length, count)
        index = start[:, None] + np.arange(length + 1)
        row = index % self._capacity
        step = row[:, :-1]
        flat = self._observation(index.ravel())
        return SequenceBatch(
            {name: values.unflatten(0, index.shape) for name, values in flat.items()},
            torch.from_numpy(self._actions[step]),
            torch.from_numpy(self._rewards[step]),
            torch.from_numpy(np.float32(self._discount) * ~self._terminated[step]),
            torch.from_numpy(self._age[row] == 0),
            torch.from_numpy(~self._final[step]),
            None if self._teacher is None else torch.from_numpy(self._teacher[step]),
        )

    def _first(self) -> int:
        """Return the oldest frame with a complete stack."""
        oldest = self._count - len(self)
        return oldest + max(0, self._stack - 1) if oldest else 0

    def _observation(self, index: np.ndarray) -> TensorObservation:
        row = index % self._capacity
        observation = {name: torch.from_numpy(values[row]) for name, values in self._vectors.items()}
        if self._stack:
            back = np.arange(self._stack - 1, -1, -1)  # newest last; an episode's first frame fills its stack
            picks = (index[:, None] - np.minimum(back, self._age[row][:, None])) % self._capacity
            frames = self._frames[picks].transpose(0, 2, 3, 1, 4)  # [B, H, W, stack, 3]
            observation["image"] = torch.from_numpy(frames.reshape(*frames.shape[:3], -1))
        return observation
