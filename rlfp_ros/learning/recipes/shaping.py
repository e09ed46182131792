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

from rlfp_ros.simulation.environment import ManipulationEnv

Observed = dict[str, np.ndarray]


class ProgressReward(gymnasium.Wrapper[Observed, np.ndarray, Observed, np.ndarray]):
    """Replaces the reward of an environment.

    Parameters
    ----------
    env
        The task's environment.
    scale
        Factor of the change of the task's reward.
    bonus
        Reward of success, once.
    """

    def __init__(self, env: ManipulationEnv, scale: float, bonus: float) -> None:
        super().__init__(env)
        self._task_env = env
        env.records_scenes = True  # the reward is that of the observation's time
        self._scale, self._bonus = scale, bonus
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
        return self._scale * (after - before) + self._bonus * success

    def _task_reward(self) -> float:
        return self._task_env.world.task.reward(self._task_env.scene, False)
