"""End-effector control learned on the arm: final distance over goals and seeds, and the same without a part of it.

Each row is one learning from nothing: random actions first, then iLQR on local models. All rows are kept in the JSON
file, and a second call continues with those that are missing. The distance is that of the simulator's true tool from
the goal, at the end of one trajectory without noise.

    ./rlfp bench local_models [--world mujoco --profile twin_near] [--json docs/measured/local_models.json]
"""

from __future__ import annotations

import argparse
import time
from datetime import date
from typing import Any

import numpy as np

from rlfp_ros.cli.parsing import add_result, amount, natural, parse_benchmark, positive
from rlfp_ros.control.arm import load_arm
from rlfp_ros.dynamics.learning_loop import LocalLearning
from rlfp_ros.dynamics.reach_learning import DECISIONS, learn_reach
from rlfp_ros.dynamics.simulated_arm import SimulatedArm
from rlfp_ros.evaluation.results import code_commit, put_between, read_json, write_json
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.worlds import load_conditions

MARKS = ("<!-- benchmarks/local_models.py begins -->", "<!-- benchmarks/local_models.py ends -->")
GOALS = ((0.35, -0.25, 0.10), (0.65, 0.25, 0.45))  # m, base frame: corners of the box that goals are drawn from
FAR = 1000.0  # nats per decision: a bound that is never reached
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no prior": {"uses_prior": False},
    "no KL bound": {"kl": FAR, "smallest_kl": FAR, "largest_kl": FAR},
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rlfp bench local_models", description=__doc__.splitlines()[0])
    parser.add_argument("--goals", type=positive, default=10, help="goals, drawn from a box in front of the arm")
    parser.add_argument("--seeds", type=positive, default=3, help="learnings per goal")
    parser.add_argument("--first-seed", type=natural, default=0, help="so that several processes can share the work")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["full"], help="what to leave out")
    parser.add_argument("--within", type=amount, default=0.01, help="end of a learning, as for rlfp learn-on-arm, m")
    parser.add_argument("--world", default="pybullet", choices=("pybullet", "mujoco"))
    parser.add_argument("--profile", default="none", help="a profile of PyBullet or a room of MuJoCo")
    add_result(parser, "--json")
    add_result(parser, "--document", page=MARKS, help="a page between whose marks the table is put")
    options = parse_benchmark(parser, argv)
    document = read_json(options.json) if options.json else {}
    rows: list[dict[str, Any]] = document.setdefault("rows", [])
    lowest, highest = np.array(GOALS)
    goals = np.random.default_rng(0).uniform(lowest, highest, size=(options.goals, 3)).round(3)
    arm = SimulatedArm(load_arm("panda"), "reach", load_conditions(options.world, options.profile), DECISIONS)
    for variant in options.variants:
        settings = LocalLearning.model_validate(VARIANTS[variant])
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for goal in goals:
                key = {
                    "variant": variant,
                    "world": options.world,
                    "profile": options.profile,
                    "within_m": options.within,
                }
                key |= {"goal": goal.tolist(), "seed": seed}
                if any(key.items() <= row.items() for row in rows):
                    continue
                began = time.process_time()
                row = {**key, "date": f"{date.today()}", "commit": code_commit()}
                try:
                    learned = learn_reach(arm, goal, settings, seed, options.within)
                    row |= {"rollouts": learned.rollouts, "distance_m": learned.true_distance_m}
                    print(f"{variant}, {goal}, seed {seed}: {1e3 * learned.true_distance_m:.1f} mm", flush=True)
                except ConfigurationError as error:
                    row |= {"refused": str(error)}
                    print(f"{variant}, {goal}, seed {seed}: {error}", flush=True)
                rows.append({**row, "seconds": round(time.process_time() - began, 2)})
                if options.json:
                    write_json(options.json, document)
    arm.close()
    text = markdown(rows)
    print(text)
    if options.document is not None:
        put_between(options.document, *MARKS, text)
    return 0


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return one line for each variant in each place."""
    lines = [
        "| variant | place | learnings | median, mm | worst, mm | within 15 mm | trajectories | processor s |",
        "|---" * 8 + "|",
    ]
    places = dict.fromkeys((row["variant"], row["world"], row["profile"]) for row in rows)
    for variant, world, profile in places:
        chosen = [row for row in rows if (row["variant"], row["world"], row["profile"]) == (variant, world, profile)]
        ended = [row for row in chosen if "refused" not in row]
        distances = 1e3 * np.array([row["distance_m"] for row in ended] or [np.nan])
        cells = [variant, f"{world}, `{profile}`", str(len(chosen)), f"{np.median(distances):.1f}"]
        cells += [f"{distances.max():.1f}", f"{int((distances <= 15).sum())} of {len(chosen)}"]
        cells.append(f"{np.median([row['rollouts'] for row in ended] or [np.nan]):.0f}")
        cells.append(f"{np.median([row['seconds'] for row in chosen]):.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
