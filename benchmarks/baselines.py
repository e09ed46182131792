"""Measures what the learnt policy contributes: compares a bundle with substitutes.

- policy: the bundle as it ships, on base controller `hold`.
- servo on the pose head: no policy; a Cartesian servo to the object position that the encoder's pose head reads.
- hold: no policy, no servo; what chance gives.
- policy without its image: the policy on black images.
- policy on the features of another episode: those of the episode before, frame by frame.

All on the same seeds, in process.

    ./rlfp bench baselines [BUNDLE ...] [--episodes N] [--profile P] [--json FILE]
                            [--document docs/explanation/results.md]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np

from rlfp_ros.cli.parsing import add_result, parse_benchmark, positive
from rlfp_ros.contract import BaseControllerContract, Bundle, load_bundle
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.evaluation.episodes import count
from rlfp_ros.evaluation.results import put_between, write_json
from rlfp_ros.evaluation.rollout import PlayedEpisode, Rollout
from rlfp_ros.perception.encoder import Percept
from rlfp_ros.seeds import BENCHMARKS
from rlfp_ros.simulation.randomization import load_profile

SERVO = BaseControllerContract(name="servo", parameters={"rate_hz": 3.0, "speed": 0.25})
BEFORE_THE_FIRST = BENCHMARKS.first  # seed of the episode whose features the first one gets
MARKS = ("<!-- benchmarks/baselines.py begins -->", "<!-- benchmarks/baselines.py ends -->")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rlfp bench baselines", description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="*", default=["reach_panda"], help="folders, or names in models/")
    parser.add_argument("--episodes", type=positive, default=100)
    parser.add_argument("--profile", default="train")
    add_result(parser, "--json")
    add_result(parser, "--document", page=MARKS, help="a page between whose marks the table is put")
    options = parse_benchmark(parser, argv)
    bundles = {name: load_bundle(name) for name in options.bundles}
    result = {name: play(bundle, options.profile, options.episodes) for name, bundle in bundles.items()}
    lines = [
        f"{date.today()}, {options.episodes} episodes under `{options.profile}`.\n",
        "| bundle | " + " | ".join(VARIANTS) + " |",
        "|---" * (1 + len(VARIANTS)) + "|",
    ]
    for bundle, found in result.items():
        cells = ["{} ({:.2f} to {:.2f})".format(won["successes"], *won["wilson95"]) for won in found.values()]
        lines.append(f"| {bundle} | " + " | ".join(cells) + " |")
    print("\n".join(lines))
    if options.json:
        write_json(options.json, result)
    if options.document:
        put_between(options.document, *MARKS, "\n".join(lines))
    return 0


def play(bundle: Bundle, profile: str, episodes: int) -> dict[str, dict[str, Any]]:
    """Return each variant's successes on the seeds 0 to `episodes` - 1."""
    found = {}
    for name, (base, change) in VARIANTS.items():
        rollout = Rollout(with_base(bundle, base) if base else bundle, load_profile(profile))
        change(rollout)
        score = count(rollout.play(seed).outcome for seed in range(episodes))
        rollout.close()
        found[name] = score.document()
        print(f"{bundle.contract.name}, {name}: {score.successes} of {episodes}", flush=True)
    return found


def with_base(bundle: Bundle, base: BaseControllerContract) -> Bundle:
    """The same networks on another base controller."""
    return Bundle(bundle.directory, bundle.contract.model_copy(update={"base_controller": base}))


def silence(rollout: Rollout) -> None:
    """Make the policy answer every image with no motion."""
    act = rollout.policy.act

    def nothing(*arguments: object) -> Residual:
        return replace(act(*arguments), twist=np.zeros(6))  # type: ignore[arg-type]

    rollout.policy.act = nothing  # type: ignore[method-assign,assignment]


def blindfold(rollout: Rollout) -> None:
    """Make every image black."""
    perceive = rollout.perception
    rollout.perception = lambda image, *camera: perceive(np.zeros_like(image), *camera)  # type: ignore[assignment]


def exchange(rollout: Rollout) -> None:
    """Give the policy the features of the episode before, frame by frame; its last ones once these are over."""
    perceive, play = rollout.perception, rollout.play
    before: list[np.ndarray] = []
    now: list[np.ndarray] = []

    def perceived(image: np.ndarray, *camera: Any) -> Percept:
        percept = perceive(image, *camera)
        now.append(percept.features)
        return replace(percept, features=before[min(len(now), len(before)) - 1]) if before else percept

    def played(seed: int) -> PlayedEpisode:
        before[:] = now
        now.clear()
        return play(seed)

    rollout.perception = perceived  # type: ignore[assignment]
    play(BEFORE_THE_FIRST)
    rollout.play = played  # type: ignore[method-assign,assignment]


# The base controller instead of the bundle's own, and what is done to the rollout.
VARIANTS: dict[str, tuple[BaseControllerContract | None, Callable[[Rollout], None]]] = {
    "policy": (None, lambda rollout: None),
    "servo on the pose head": (SERVO, silence),
    "hold": (None, silence),
    "policy without its image": (None, blindfold),
    "policy on the features of another episode": (None, exchange),
}
