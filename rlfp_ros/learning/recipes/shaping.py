"""The reward of reinforcement learning: success, and the change of the task's reward.

A task's reward only has to grow on the way to success. An agent that is paid for its change gains nothing by staying
where it is high, is paid at once for what an action changes, and success always pays. With a discount of 1 the change
is potential-based shaping (Ng, Harada and Russell 1999), which leaves the optimal policy unchanged. With a discount
below 1 it also prefers early progress.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from pydantic import Field

from rlfp_ros.learning.runs.settings import TrainingSettings
from rlfp_ros.simulation.environment import ManipulationEnv

Observed = dict[str, np.ndarray]


class RewardSettings(TrainingSettings):
    """What reinforcement learning is paid for."""

    progress_scale: float = Field(10.0, ge=0)  # factor of the change of the task's reward
    success_bonus: float = Field(5.0, gt=0)  # reward of success, once


class ProgressReward(gymnasium.Wrapper[Observed, np.ndarray, Observed, np.ndarray]):
    """Replaces the reward of a task's environment.

    Parameters
    ----------
    env
        A `ManipulationEnv`, perhaps in wrappers that leave time and scene alone.
    settings
        What is paid for.
    """

    def __init__(self, env: gymnasium.Env[Observed, np.ndarray], settings: RewardSettings) -> None:
        super().__init__(env)
        task_env = env.unwrapped
        assert isinstance(task_env, ManipulationEnv)
        self._task_env, self._settings = task_env, settings
        task_env.records_scenes = True  # the reward is that of the observation's time
        self._before = 0.0

    def reset(self, **arguments: Any) -> tuple[Observed, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(**arguments)
        self._before = self._task_reward()
        return observation, info

    def step(self, action: np.ndarray) -> tuple[Observed, float, bool, bool, dict[str, Any]]:
        """Take a step."""
        observation, _, terminated, truncated, info = self.env.step(action)
        before, self._before = self._before, self._task_reward()
        return observation, self.of(before, self._before, bool(info["success"])), terminated, truncated, info

    def of(self, before: float, after: float, success: bool) -> float:
        """Return the learner's reward of a step, from the task's reward before and after it."""
        settings = self._settings
        return settings.progress_scale * (after - before) + settings.success_bonus * success

    def _task_reward(self) -> float:
        return self._task_env.world.task.reward(self._task_env.scene, False)
