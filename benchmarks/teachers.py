"""How often the tasks' scripted teachers succeed: the true state, the deployed controller and limits, randomisation.

./rlfp bench teachers [--tasks push lift place] [--profile train] [--episodes 50] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from rlfp_ros.evaluation.results import write_json
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.task import NAMES

IMAGE_SIZE = 16  # px; nobody looks


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rlfp bench teachers", description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--profile", default="train")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    result = {task: play(task, options.profile, options.episodes) for task in options.tasks}
    for task, found in result.items():
        print(f"{task:8} " + "  ".join(f"{key} {value}" for key, value in found.items()))
    if options.json:
        write_json(options.json, result)
    return 0


def play(task: str, profile: str, episodes: int) -> dict[str, Any]:
    """Episodes of seeds 0, 1, ..."""
    env = ManipulationEnv(task, profile=profile, observation="state", image_size=IMAGE_SIZE)
    steps, failed = [], []
    for seed in range(episodes):
        env.reset(seed=seed)
        ended, count = False, 0
        while not ended:
            action = env.world.task.teacher(env.world, env.behaviour.action)
            *_, terminated, truncated, info = env.step(action)
            ended, count = terminated or truncated, count + 1
        steps.append(count)
        if not info["success"]:
            failed.append(seed)
    env.close()
    wins = episodes - len(failed)
    return {"successes": wins, "episodes": episodes, "median_frames": statistics.median(steps), "failed_seeds": failed}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
