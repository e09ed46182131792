"""Hindsight: an episode is also experience with the goal that it reached instead of its own.

A brick that was pushed anywhere shows how to push a brick there (hindsight experience replay, Andrychowicz et al. 2017,
https://arxiv.org/abs/1707.01495). Tasks without a goal have none.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from rlfp_ros.learning.algorithms.environments import LearningObservation
from rlfp_ros.learning.recipes.collector import Experience
from rlfp_ros.learning.recipes.shaping import ProgressReward
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.tasks.recorded_scene import RecordedScene

JITTER = 0.5  # of the task's success distance, by which a goal differs from what was reached

Observed = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Step:
    action: np.ndarray
    observation: Observed  # after the action
    scene: RecordedScene  # of the observation
    truncated: bool


class Hindsight(gymnasium.Wrapper[Observed, np.ndarray, Observed, np.ndarray]):
    """Adds `hindsight`, a list of `Experience`, to the `info` of an episode's last step.

    Parameters
    ----------
    env
        An environment that observes the state.
    reward
        Computes the learner's rewards.
    wrapper
        Makes the learner's observations.
    copies
        Other goals per episode.
    """

    def __init__(self, env: ManipulationEnv, reward: ProgressReward, wrapper: LearningObservation, copies: int) -> None:
        super().__init__(wrapper)
        self._task_env, self._reward, self._wrapper, self._copies = env, reward, wrapper, copies
        action = env.behaviour.action
        period = action.images_per_decision / action.rate_hz
        # One decision more than `hold` takes, because the first of them may have been reached just before its image.
        self._held = 1 + math.ceil(env.world.task.settings.hold / period - 1e-9)
        self._rng = np.random.default_rng()
        self._first: Observed = {}
        self._start: RecordedScene | None = None
        self._steps: list[_Step] = []

    def reset(self, **arguments: Any) -> tuple[Observed, dict[str, Any]]:
        """Start an episode."""
        observation, info = super().reset(**arguments)
        self._rng = np.random.default_rng(arguments.get("seed"))
        self._first, self._start = self._wrapper.observation, self._task_env.scene
        self._steps = []
        return observation, info

    def step(self, action: np.ndarray) -> tuple[Observed, float, bool, bool, dict[str, Any]]:
        """Take a step."""
        observation, reward, terminated, truncated, info = super().step(action)
        step = _Step(np.asarray(action, np.float32), self._wrapper.observation, self._task_env.scene, bool(truncated))
        self._steps.append(step)
        if terminated or truncated:
            info["hindsight"] = self._relabelled()
        return observation, float(reward), terminated, truncated, info

    def _relabelled(self) -> list[Experience]:
        task, start = self._task_env.world.task, self._start
        assert start is not None
        own, found = copy.deepcopy(task.state), []
        try:
            last = len(self._steps) - 1
            for number in range(self._copies):
                pick = last if number == 0 else int(self._rng.integers(len(self._steps) // 2, last + 1))
                goal = task.reached_goal(self._steps[pick].scene)
                if goal is None:
                    continue
                spread = JITTER * task.settings.success_distance
                offset = np.append(self._rng.uniform(-spread, spread, 2), 0.0)
                task.pursue(goal + offset)
                if task.success(start):
                    continue  # nothing had to be done for it
                found.append(self._with_present_goal(start))
        finally:
            task.state = own
        return found

    def _with_present_goal(self, start: RecordedScene) -> Experience:
        """Return the episode as if the task had had its present goal from the start, until that is reached."""
        task = self._task_env.world.task
        before = self._wrapper.vector_of(self._seen(self._first, start))
        rows: list[tuple[Observed, Observed, np.ndarray, float, bool, bool]] = []
        potential, reached = task.reward(start, False), 0
        for step in self._steps:
            after = self._wrapper.vector_of(self._seen(step.observation, step.scene))
            reached = reached + 1 if task.success(step.scene) else 0
            won = reached >= self._held
            earlier, potential = potential, task.reward(step.scene, False)
            reward = self._reward.of(earlier, potential, won)
            rows.append(({"vector": before}, {"vector": after}, step.action, reward, won, step.truncated and not won))
            before = after
            if won:
                break
        return Experience.of(rows)

    def _seen(self, observation: Observed, scene: RecordedScene) -> Observed:
        """Return an observation with the task's present goal."""
        task = self._task_env.world.task
        seen = observation | {"state": task.privileged_state(scene)}
        if observation["goal_mask"].any():
            goal = task.goal(scene)
            assert goal is not None
            seen["goal"] = np.asarray(goal, np.float32)
        return seen
