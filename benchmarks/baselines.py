"""What the learnt policy is worth: the shipped reach bundle beside what stands in for it.

- policy: the bundle as it ships, on base controller `hold`.
- servo on the pose head: no policy; a Cartesian servo to the object position that the encoder's pose head reads.
- hold: no policy, no servo; what chance gives.
- policy without its picture: the policy on black pictures.

All on the same seeds, in process. ./rlfp bench baselines [--episodes N] [--profile P] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from rlfp_ros.bundle import BaseController, Bundle, load_bundle
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.evaluation.results import write_json
from rlfp_ros.evaluation.rollout import Rollout
from rlfp_ros.evaluation.statistics import wilson95
from rlfp_ros.simulation.randomization import load_profile

BUNDLE = "reach_panda"
SERVO = BaseController(name="servo", parameters={"rate_hz": 3.0, "speed": 0.25})


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rlfp bench baselines", description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--profile", default="train")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    bundle = load_bundle(BUNDLE)
    variants: dict[str, Callable[[Rollout], None]] = {
        "policy": lambda rollout: None,
        "servo on the pose head": silence,
        "hold": silence,
        "policy without its picture": blindfold,
    }
    result = {}
    table = Table("variant", "success", "95 % interval", title=f"{BUNDLE}, profile {options.profile}")
    for name, change in variants.items():
        based = with_base(bundle, SERVO) if name.startswith("servo") else bundle
        rollout = Rollout(based, load_profile(options.profile))
        change(rollout)
        successes = sum(rollout.play(seed).outcome.success for seed in range(options.episodes))
        rollout.close()
        low, high = wilson95(successes, options.episodes)
        result[name] = {
            "successes": successes,
            "episodes": options.episodes,
            "wilson95": [round(low, 4), round(high, 4)],
        }
        table.add_row(name, f"{successes / options.episodes:.2f}", f"{low:.2f} to {high:.2f}")
    Console().print(table)
    if options.json:
        write_json(options.json, result)
    return 0


def with_base(bundle: Bundle, base: BaseController) -> Bundle:
    """The same networks on another base controller."""
    return Bundle(bundle.directory, bundle.contract.model_copy(update={"base_controller": base}))


def silence(rollout: Rollout) -> None:
    """The policy answers every picture with no motion."""
    act = rollout._policy.act

    def nothing(*arguments: object) -> Residual:
        return replace(act(*arguments), twist=np.zeros(6))  # type: ignore[arg-type]

    rollout._policy.act = nothing  # type: ignore[method-assign,assignment]


def blindfold(rollout: Rollout) -> None:
    """Every picture is black."""
    perceive = rollout._perception
    rollout._perception = lambda image, *camera: perceive(np.zeros_like(image), *camera)  # type: ignore[assignment]
