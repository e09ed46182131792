"""`rlfp evaluate`: success rate of a bundle with its interval, in process or through the graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlfp_ros.contract import Bundle, load_bundle
from rlfp_ros.evaluation.episodes import count
from rlfp_ros.evaluation.results import code_commit, write_json
from rlfp_ros.evaluation.rollout import Rollout
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.room import load_room
from rlfp_ros.simulation.ticked_world import Outcome

WORLDS = {"pybullet": "train", "mujoco": "twin_near"}  # and what each plays where nothing else is said
Report = Callable[[int, Outcome], None]  # episode number and how it ended
# (bundle, world, profile, episodes, seed, report) -> outcomes, further figures for the result
Play = Callable[[Bundle, str, str, int, int, Report], tuple[list[Outcome], dict[str, Any]]]


def evaluate(
    bundle: str | Path,
    profile: str | None = None,
    episodes: int = 200,
    seed: int = 0,
    world: str = "pybullet",
    json_path: Path | None = None,
    report: Report = lambda number, outcome: None,
    play: Play | None = None,
) -> dict[str, Any]:
    """Play episodes with seeds `seed`, `seed + 1`, ... and count successes.

    `profile` names a randomisation profile of PyBullet, or a room of MuJoCo. `play` is `play_in_process` by default;
    `graph.rollout.play_graph` plays the same episodes through the real ROS 2 graph.
    Returns (and writes to `json_path`) the keys bundle, task, world, profile, episodes, seed, successes, success_rate,
    wilson95, mean_steps, wall_s, commit (of the code that played), trained_at_commit, and whatever
    `play` adds.
    """
    if world not in WORLDS:
        raise ConfigurationError(f"--world is {world!r}, expected one of: {', '.join(WORLDS)}")
    if episodes < 1:
        raise ConfigurationError(f"--episodes is {episodes}, expected at least 1")
    profile = profile or WORLDS[world]
    loaded = load_bundle(bundle)
    started = time.monotonic()
    outcomes, extra = (play or play_in_process)(loaded, world, profile, episodes, seed, report)
    result = summary(loaded, world, profile, seed, outcomes, time.monotonic() - started) | extra
    if json_path is not None:
        write_json(json_path, result)
    return result


def play_in_process(
    bundle: Bundle, world: str, profile: str, episodes: int, seed: int, report: Report
) -> tuple[list[Outcome], dict[str, Any]]:
    """Play episodes without ROS; return their outcomes and no further figures."""
    rollout = Rollout(bundle, load_room(profile) if world == "mujoco" else load_profile(profile))
    outcomes = []
    for number in range(episodes):
        outcomes.append(rollout.play(seed + number).outcome)
        report(number, outcomes[-1])
    rollout.close()
    return outcomes, {}


def summary(
    bundle: Bundle, world: str, profile: str, seed: int, outcomes: list[Outcome], wall_s: float
) -> dict[str, Any]:
    """The figures of a number of episodes, under the keys that every command's JSON has."""
    return {
        "bundle": bundle.contract.name,
        "task": bundle.contract.task,
        "world": world,
        "profile": profile,
        "seed": seed,
        **count(outcomes).document(),
        "wall_s": round(wall_s, 2),
        "commit": code_commit(),
        "trained_at_commit": bundle.contract.provenance.get("commit", "unknown"),
    }
