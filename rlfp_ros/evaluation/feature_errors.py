"""Measures an encoder's errors over episodes that the task's teacher plays."""

from __future__ import annotations

import numpy as np

from rlfp_ros.simulation.environment import ManipulationEnv, Perceiver
from rlfp_ros.simulation.feature_error import FeatureErrorModel, fit


def measure_feature_errors(env: ManipulationEnv, encoder: Perceiver, episodes: int) -> FeatureErrorModel:
    """Fit an error model to an encoder.

    Parameters
    ----------
    env
        An environment that renders, with a task that has a teacher.
    encoder
        Returns feature points [K, 3] for an image, uint8 [H, W, 3].
    episodes
        Number of episodes.
    """
    given, true, starts = [], [], []
    for _ in range(episodes):
        env.reset()
        ended, first = False, True
        while not ended:
            given.append(encoder(env.world.image))
            true.append(env.world.keypoints())
            starts.append(first)
            action = env.world.task.teacher(env.world, env.behaviour.action)
            _, _, terminated, truncated, _ = env.step(action)
            ended, first = terminated or truncated, False
    return fit(np.stack(given), np.stack(true), np.array(starts))
