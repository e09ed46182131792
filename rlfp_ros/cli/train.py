"""Commands that make policy bundles: `train` and `export`.

`train` runs the whole recipe, or with `--algorithm` a single algorithm. The options that only one of the two uses have
no default here: an option that was not given is absent, and the default of the recipe or of the algorithm applies.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlfp_ros.cli.arm_warnings import named_arm
from rlfp_ros.cli.parsing import (
    PROFILES,
    TASKS,
    Commands,
    add_arm_or_cell,
    add_command,
    add_result,
    arm_of,
    fraction,
    natural,
    positive,
)


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this file's commands."""
    command = add_command(commands, "train", _train, "train a task from nothing to a policy bundle")
    command.add_argument("task", help=TASKS)
    add_arm_or_cell(command, "panda")
    command.add_argument("--profile", default="train", help=f"randomisation: {PROFILES} (default: %(default)s)")
    command.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the whole training (default: %(default)s)"
    )
    add_result(
        command, "--out", folder=True, metavar="DIR", help="the bundle (default: models/<task>_<arm>, or <task>_<cell>)"
    )
    add_result(
        command,
        "--run",
        folder=True,
        dest="run_folder",
        metavar="DIR",
        help="checkpoints and logs (default: runs/train_ and the name of the bundle's folder)",
    )
    command.add_argument("--resume", action="store_true", help="continue the training in the run folder")
    _add_evaluation_episodes(command)
    command.add_argument(
        "--algorithm", metavar="NAME", help="run one algorithm instead of a recipe; `rlfp plugins` lists them"
    )
    recipe, algorithm = _recipe_options(command), _algorithm_options(command)
    command.set_defaults(recipe_options=recipe, algorithm_options=algorithm)

    command = add_command(
        commands, "export", _export, "write a policy bundle from a finished training, or an older one anew"
    )
    command.add_argument("source", metavar="RUN", type=Path, help="a run folder of `rlfp train`, or a bundle folder")
    add_result(command, "--out", folder=True, required=True, metavar="DIR", help="the bundle, for example models/NAME")
    command.add_argument(
        "--trust-images",
        type=natural,
        metavar="N",
        default=0,
        help="images from which the domain-shift score trust.onnx is learnt anew, for example 8000, which takes some "
        "minutes; 0: keep the score that there is (default: %(default)s)",
    )
    _add_evaluation_episodes(command)


def _add_evaluation_episodes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--evaluation-episodes",
        type=natural,
        default=100,
        metavar="N",
        help="episodes per profile at the end (default: %(default)s)",
    )


def _recipe_options(command: argparse.ArgumentParser) -> Sequence[argparse.Action]:
    group = command.add_argument_group("the recipe", "without --algorithm", argument_default=argparse.SUPPRESS)
    return (
        group.add_argument(
            "--recipe", metavar="NAME", help="the recipe; `rlfp plugins` lists them (default: reinforcement)"
        ),
        group.add_argument("--encoder", metavar="KIND", help="the encoder; `rlfp plugins` lists them"),
        group.add_argument(
            "--representation",
            metavar="NAME[+NAME...]",
            help="the objectives that train the encoder (imitation); `rlfp plugins` lists them",
        ),
        group.add_argument(
            "--feature-stack",
            type=positive,
            metavar="N",
            help="decisions whose features are seen (default: 1; imitation: 2)",
        ),
        group.add_argument(
            "--memory", type=natural, metavar="N", help="units of a memory, a GRU (imitation; default: 0)"
        ),
        group.add_argument("--work", type=fraction, metavar="F", help="share of the full training (default: 1)"),
    )


def _algorithm_options(command: argparse.ArgumentParser) -> Sequence[argparse.Action]:
    group = command.add_argument_group(
        "one algorithm by itself",
        "with --algorithm; leaves a policy in the run folder, and with --out a bundle",
        argument_default=argparse.SUPPRESS,
    )
    return (
        group.add_argument(
            "--observation",
            metavar="KIND",
            help="input beside joints and goal: pixels, features or state (default: pixels)",
        ),
        group.add_argument("--image-size", type=positive, metavar="PX", help="side of the image in px (default: 32)"),
        group.add_argument("--frame-stack", type=positive, metavar="N", help="images in an observation (default: 1)"),
        group.add_argument(
            "--encoder-from",
            dest="encoder_bundle",
            metavar="BUNDLE",
            help="the bundle whose encoder computes the features (default: <task>_<arm>)",
        ),
        group.add_argument(
            "--steps", type=positive, metavar="N", help="environment steps (default: the algorithm's own)"
        ),
        group.add_argument(
            "--set",
            dest="settings",
            action="append",
            metavar="NAME=VALUE",
            help="change one of the algorithm's settings; can be repeated",
        ),
    )


def _given(options: argparse.Namespace, actions: Sequence[argparse.Action]) -> dict[str, Any]:
    """Return the options of one group that were given on the command line."""
    values = vars(options)
    return {action.dest: values[action.dest] for action in actions if action.dest in values}


def _refuse(options: argparse.Namespace, actions: Sequence[argparse.Action], reason: str) -> None:
    from rlfp_ros.schema import ConfigurationError

    given = [action.option_strings[0] for action in actions if action.dest in vars(options)]
    if given:
        raise ConfigurationError(f"{reason} {', '.join(given)}; leave that out")


def _train(options: argparse.Namespace) -> int:
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as Ctrl-C does: children and clock too
    # Before torch is imported: threads that wait for each other sleep. If they spin, a training with two threads is
    # half as fast beside other programs.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    options.arm = arm_of(options) or "panda"
    if options.algorithm:
        _refuse(options, options.recipe_options, f"--algorithm {options.algorithm} does not use")
        return _train_by_algorithm(options)
    _refuse(options, options.algorithm_options, "only --algorithm uses")
    return _train_by_recipe(options)


def _train_by_recipe(options: argparse.Namespace) -> int:
    from rlfp_ros.learning.recipes import train

    given = _given(options, options.recipe_options)
    chosen = given.pop("recipe", train.DEFAULT)
    recipe = train.recipe_for(options.task, options.arm, options.profile, options.seed, chosen).with_options(**given)
    name = f"{options.task}_{named_arm(options.arm).label}"
    out = options.out or Path("models") / name
    run = options.run_folder or Path("runs") / f"train_{out.resolve().name}"
    train.main(recipe, out, run, resume=options.resume, evaluation_episodes=options.evaluation_episodes)
    return 0


def _train_by_algorithm(options: argparse.Namespace) -> int:
    from rlfp_ros.learning.algorithms import run as algorithms
    from rlfp_ros.schema import validate

    given = _given(options, options.algorithm_options)
    if "encoder_bundle" in given:
        given["encoder"] = given.pop("encoder_bundle")
    for option in ("algorithm", "task", "arm", "profile", "seed"):
        given[option] = getattr(options, option)
    plan = validate(given, algorithms.Plan, "rlfp train")
    name = f"{options.algorithm}_{plan.observation}_{options.task}_{named_arm(options.arm).label}"
    run = options.run_folder or Path("runs") / name
    algorithms.main(plan, run, options.out, options.resume, options.evaluation_episodes)
    return 0


def _export(options: argparse.Namespace) -> int:
    from rlfp_ros.learning.encoders.trust import TrustTraining
    from rlfp_ros.learning.export.export import export_bundle
    from rlfp_ros.learning.report.training_report import MARKERS, write_report

    trust = TrustTraining().shortened(options.trust_images) if options.trust_images else None
    bundle = export_bundle(options.source, options.out, options.evaluation_episodes, trust=trust)
    print(f"wrote {bundle.directory}")
    if any((options.source / marker).is_file() for marker in MARKERS):  # a run folder, not a bundle
        print(f"report: {write_report(options.source)}")
    return 0
