"""Environments in processes of their own."""

from __future__ import annotations

import numpy as np
import pytest

from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.vector import make_vector

ARGUMENTS = {"task": "push", "profile": "train", "observation": "pixels", "image_size": 16}
STEPS = 12


def test_processes_give_the_pixels_of_a_single_environment() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, 2, 3)).astype(np.float32)
    vector = make_vector(2, seed=10, **ARGUMENTS)
    try:
        observation, _ = vector.reset()
        pictures = [observation["image"].copy()]
        for action in actions:
            observation, rewards, *_ = vector.step(action)
            pictures.append(observation["image"].copy())
        assert rewards.shape == (2,)
        second, _ = vector.reset()  # each goes on with its own seeds
        second_pictures = second["image"].copy()
        sent = vector.reset(seed=10)[0]["image"]
        np.testing.assert_array_equal(sent, pictures[0])
        assert not sent.flags.owndata  # a view of the shared memory
    finally:
        vector.close()
    env = ManipulationEnv(**ARGUMENTS)
    for index in range(2):
        np.testing.assert_array_equal(env.reset(seed=10 + index)[0]["image"], pictures[0][index])
        for step in range(STEPS):
            observation, *_ = env.step(actions[step, index])
            np.testing.assert_array_equal(observation["image"], pictures[step + 1][index])
        np.testing.assert_array_equal(env.reset(seed=12 + index)[0]["image"], second_pictures[index])
    env.close()


def test_an_empty_vector_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="count is 0"):
        make_vector(0)
