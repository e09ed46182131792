"""Compares the graph in lock step with the same code in process: equal seeds must give equal episodes.

Every residual that the policy node published is compared with the in-process one of the same image, and every
outcome with its twin. Exit code 1 if an outcome differs, or a residual by more than TOLERANCE.

    ./rlfp bench parity [--bundle B] [--profile P] [--episodes N] [--seed S] [--json FILE]
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from rlfp_ros.cli.parsing import add_result, natural, parse_benchmark, positive
from rlfp_ros.contract import load_bundle
from rlfp_ros.evaluation.results import write_json
from rlfp_ros.evaluation.rollout import Rollout
from rlfp_ros.graph.rollout import observe_graph, outcome_of
from rlfp_ros.simulation.randomization import load_profile

TOLERANCE = 1e-5  # m/s and rad/s


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rlfp bench parity", description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="reach_panda")
    parser.add_argument("--profile", default="train")
    parser.add_argument("--episodes", type=positive, default=50)
    parser.add_argument("--seed", type=natural, default=0)
    add_result(parser, "--json")
    options = parse_benchmark(parser, argv)
    result = compare(options.bundle, options.profile, options.episodes, options.seed)
    print("  ".join(f"{key} {value}" for key, value in result.items()))
    if options.json:
        write_json(options.json, result)
    return int(result["outcomes_equal"] < result["episodes"] or result["largest_difference"] > TOLERANCE)


def compare(bundle_name: str, profile: str, episodes: int, seed: int) -> dict[str, Any]:
    """`{episodes, outcomes_equal, residuals, heard, largest_difference}`; the difference in m/s or rad/s."""
    bundle = load_bundle(bundle_name)
    arguments = {
        "task": bundle.contract.task,
        "bundle": bundle_name,
        "profile": profile,
        "episodes": episodes,
        "seed": seed,
        "lock_step": True,
        "transport": "local",
    }
    observed = observe_graph(arguments, lambda episode: None)
    alone = Rollout(bundle, load_profile(profile))
    result = {"episodes": episodes, "outcomes_equal": 0, "residuals": 0, "heard": 0, "largest_difference": 0.0}
    for number, heard in enumerate(observed):
        played = alone.play(seed + number)
        result["outcomes_equal"] += outcome_of(heard) == played.outcome
        # Stamps count from the start of the process: compare them from each episode's start, its first image.
        expected = {residual.stamp_ns - played.residuals[0].stamp_ns: residual.twist for residual in played.residuals}
        result["residuals"] += len(expected)
        result["heard"] += len(heard.residuals)
        for stamp, twist in heard.residuals.items():
            difference = float(np.max(np.abs(twist - expected.get(stamp - heard.start, np.inf))))
            result["largest_difference"] = max(result["largest_difference"], difference)
    alone.close()
    return result
