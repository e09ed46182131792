"""`rlfp evaluate`: success rate of a bundle with its interval, in process or through the graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlfp_ros.contract import Bundle, load_bundle
from rlfp_ros.control.trained_arm import choose_arm
from rlfp_ros.evaluation.episodes import count
from rlfp_ros.evaluation.results import code_commit, write_json
from rlfp_ros.evaluation.rollout import Rollout
from rlfp_ros.files import check_writable
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.ticked_world import Outcome
from rlfp_ros.simulation.worlds import load_conditions, simulator

Report = Callable[[int, Outcome], None]  # episode number and outcome


@dataclass(frozen=True)
class Series:
    """Episodes to play: those with the seeds `seed`, `seed + 1`, ..."""

    bundle: Bundle
    world: str  # name of the simulator
    profile: str  # name or file of a profile of PyBullet, or of a room of MuJoCo
    episodes: int
    seed: int
    arm: str | Path | None = None  # instead of the bundle's own


# (series, report) -> outcomes, further figures for the result
Play = Callable[[Series, Report], tuple[list[Outcome], dict[str, Any]]]


def evaluate(
    bundle: str | Path,
    profile: str | None = None,
    episodes: int = 200,
    seed: int = 0,
    world: str = "pybullet",
    json_path: Path | None = None,
    report: Report = lambda number, outcome: None,
    play: Play | None = None,
    arm: str | Path | None = None,
) -> dict[str, Any]:
    """Play episodes and count successes.

    Parameters
    ----------
    bundle
        Name or folder of a bundle.
    profile
        A randomisation profile of PyBullet, or a room of MuJoCo; by default the simulator's own.
    episodes, seed
        How many episodes, and the seed of the first; the others follow it.
    world
        Name of the simulator.
    json_path
        File that the result is also written to.
    report
        Called after each episode.
    play
        Plays the episodes, by default `play_in_process`; `graph.rollout.play_graph` plays the same ones through the
        real ROS 2 graph.
    arm
        Name or file of an arm, instead of the one that the bundle was trained with.

    Returns
    -------
    dict
        bundle, task, world, profile, seed, episodes, successes, success_rate, wilson95, mean_steps, wall_s, commit (of
        the code that played), trained_at_commit, and the further figures of `play`.

    Raises
    ------
    ConfigurationError
        If an argument does not exist or does not fit the bundle.
    """
    profile = profile or simulator(world).default
    if episodes < 1:
        raise ConfigurationError(f"--episodes is {episodes}, expected at least 1")
    series = Series(load_bundle(bundle), world, profile, episodes, seed, arm)
    choose_arm(series.bundle, arm)  # raises before anything starts
    if json_path is not None:
        check_writable(json_path)  # before the episodes, whose outcomes would be lost
    started = time.monotonic()
    outcomes, extra = (play or play_in_process)(series, report)
    result = summary(series.bundle, world, profile, seed, outcomes, time.monotonic() - started) | extra
    if json_path is not None:
        write_json(json_path, result)
    return result


def play_in_process(series: Series, report: Report) -> tuple[list[Outcome], dict[str, Any]]:
    """Play episodes without ROS; return their outcomes and no further figures."""
    rollout = Rollout(series.bundle, load_conditions(series.world, series.profile), arm=series.arm)
    outcomes = []
    for number in range(series.episodes):
        outcomes.append(rollout.play(series.seed + number).outcome)
        report(number, outcomes[-1])
    rollout.close()
    return outcomes, {}


def summary(
    bundle: Bundle, world: str, profile: str, seed: int, outcomes: list[Outcome], wall_s: float
) -> dict[str, Any]:
    """Return the figures of played episodes under the keys that every command's JSON has."""
    contract = bundle.contract
    return {
        "bundle": contract.name,
        "task": contract.task,
        "world": world,
        "profile": profile,
        "seed": seed,
        **count(outcomes).document(),
        "wall_s": round(wall_s, 2),
        "commit": code_commit(),
        "trained_at_commit": contract.provenance.get("commit", "unknown"),
    }
