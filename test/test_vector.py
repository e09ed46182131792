"""Tests of environments in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.vector import make_vector

HERE = Path(__file__).parent
ARGUMENTS: dict[str, Any] = {"task": "push", "profile": "train", "observation": "pixels", "image_size": 16}
STEPS = 12


def test_processes_give_the_pixels_of_a_single_environment() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, 2, 3)).astype(np.float32)
    vector = make_vector(2, seed=10, **ARGUMENTS)
    try:
        observation, _ = vector.reset()
        images = [observation["image"].copy()]
        for action in actions:
            observation, rewards, *_ = vector.step(action)
            images.append(observation["image"].copy())
        assert rewards.shape == (2,)
        second, _ = vector.reset()  # each continues with its own seeds
        second_images = second["image"].copy()
        sent = vector.reset(seed=10)[0]["image"]
        np.testing.assert_array_equal(sent, images[0])
        assert not sent.flags.owndata  # a view of the shared memory
    finally:
        vector.close()
    env = ManipulationEnv(**ARGUMENTS)
    for index in range(2):
        np.testing.assert_array_equal(env.reset(seed=10 + index)[0]["image"], images[0][index])
        for step in range(STEPS):
            observation, *_ = env.step(actions[step, index])
            np.testing.assert_array_equal(observation["image"], images[step + 1][index])
        np.testing.assert_array_equal(env.reset(seed=12 + index)[0]["image"], second_images[index])
    env.close()


def test_an_empty_vector_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="count is 0"):
        make_vector(0)


# --- stock vectors ---------------------------------------------------------------------------------------------------

EPISODES, COUNT = 3, 3
STOCK: dict[str, Any] = {"profile": "train", "observation": "state"}


def make_stock(kind: str) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    if kind == "sync":
        return gymnasium.make_vec("rlfp_ros/Reach-v0", num_envs=COUNT, vectorization_mode="sync", **STOCK)
    return gymnasium.make_vec(
        "rlfp_ros/Reach-v0", num_envs=COUNT, vectorization_mode="async", vector_kwargs={"context": kind}, **STOCK
    )


def starts(reset: Callable[[int | None], dict[str, np.ndarray]], seed: int | None) -> list[tuple[float, ...]]:
    """The state at the start of EPISODES episodes of each environment, the first of them with the seed."""
    found = []
    for episode in range(EPISODES):
        found += [tuple(row) for row in reset(seed if episode == 0 else None)["state"].tolist()]
    return found


@pytest.mark.parametrize("kind", ["sync", "spawn"])
def test_a_stock_vector_plays_different_episodes_and_a_seed_repeats_them(kind: str) -> None:
    check_stock(kind)


def test_a_stock_vector_may_fork() -> None:
    """In a process of its own: the child of one with threads and ROS contexts, as the suite's, may crash."""
    program = "import test_vector; test_vector.check_stock('fork')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (HERE.parent, HERE)))}
    subprocess.run([sys.executable, "-c", program], env=environment, timeout=120, check=True)


def check_stock(kind: str) -> None:
    vector = make_stock(kind)
    reset = lambda seed: vector.reset(seed=seed)[0]  # noqa: E731
    try:
        unseeded, seeded, again = starts(reset, None), starts(reset, 5), starts(reset, 5)
    finally:
        vector.close()
    assert len({*unseeded, *seeded}) == 2 * COUNT * EPISODES
    assert again == seeded
    env = ManipulationEnv("reach", **STOCK)
    for index in range(COUNT):  # Gymnasium gives environment i the seed 5 + i
        assert tuple(env.reset(seed=5 + index)[0]["state"].tolist()) == seeded[index]
        assert tuple(env.reset()[0]["state"].tolist()) == seeded[COUNT + index]
    env.close()


@pytest.mark.parametrize("seed", [None, 0])
def test_stable_baselines3_plays_different_episodes(seed: int | None) -> None:
    make_vec_env = pytest.importorskip("stable_baselines3.common.env_util").make_vec_env
    vector = make_vec_env("rlfp_ros/Reach-v0", n_envs=COUNT, seed=seed, env_kwargs=STOCK)
    found = starts(lambda _: vector.reset(), None)
    vector.close()
    assert len(set(found)) == COUNT * EPISODES


def test_autoreset_continues_with_other_episodes() -> None:
    """SyncVectorEnv resets an ended environment by itself, without a seed."""
    vector = gymnasium.make_vec("rlfp_ros/Reach-v0", num_envs=2, vectorization_mode="sync", **STOCK)
    vector.reset(seed=0)
    seeds: list[set[int]] = [set(), set()]
    for _ in range(330):  # two episodes of 5 s and a little more
        *_, infos = vector.step(np.zeros((2, 3), np.float32))
        for index in range(2):
            seeds[index].add(infos["sample"][index].seed)
    vector.close()
    assert [len(found) for found in seeds] == [3, 3]
    assert not seeds[0] & seeds[1]


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_mode_of_automatic_reset_plays_distinct_and_repeatable_episodes(mode: AutoresetMode, kind: str) -> None:
    arguments = {"autoreset_mode": mode} | ({"context": "spawn"} if kind == "async" else {})
    vector = gymnasium.make_vec("rlfp_ros/Reach-v0", 2, vectorization_mode=kind, vector_kwargs=arguments, **STOCK)

    def first_states() -> list[list[tuple[float, ...]]]:
        """The states at the start of two episodes of each environment."""
        found = [[tuple(row)] for row in vector.reset(seed=5)[0]["state"].tolist()]
        ended_before = np.zeros(2, bool)
        for _ in range(160):  # an episode of 5 s, and a little more
            observation, _, terminated, truncated, _ = vector.step(np.zeros((2, 3), np.float32))
            started = ended = terminated | truncated
            if mode is AutoresetMode.DISABLED and ended.any():
                observation, _ = vector.reset(options={"reset_mask": ended})
            elif mode is AutoresetMode.NEXT_STEP:
                started, ended_before = ended_before, ended
            for index in np.flatnonzero(started):
                found[index].append(tuple(observation["state"][index].tolist()))
        return found

    try:
        found, again = first_states(), first_states()
    finally:
        vector.close()
    assert all(len(episodes) >= 2 for episodes in found)
    states = [state for episodes in found for state in episodes]
    assert len(set(states)) == len(states)
    assert found == again
