"""Commands that measure and show: `evaluate`, `report` and `preview`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rlfp_ros.cli.arm_warnings import named_arm
from rlfp_ros.cli.parsing import (
    PROFILES,
    ROOMS,
    TASKS,
    Commands,
    add_arm_or_cell,
    add_command,
    add_result,
    arm_of,
    positive,
)

if TYPE_CHECKING:
    from rlfp_ros.evaluation.evaluate import Play
    from rlfp_ros.simulation.ticked_world import Outcome


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this file's commands."""
    command = add_command(commands, "evaluate", _evaluate, "measure a bundle's success rate")
    command.add_argument("bundle", help="a bundle folder, or the name of one in models/")
    command.add_argument(
        "--profile",
        metavar="NAME",
        help=f"with pybullet {PROFILES} (default: train); with mujoco {ROOMS} (default: twin_near)",
    )
    command.add_argument(
        "--world",
        default="pybullet",
        choices=("pybullet", "mujoco"),
        help="the simulator; no policy is trained in mujoco (default: %(default)s)",
    )
    command.add_argument(
        "--episodes", type=positive, default=200, metavar="N", help="number of episodes (default: %(default)s)"
    )
    command.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the first episode (default: %(default)s)"
    )
    add_arm_or_cell(command, "the arm and the cell that the bundle was trained with")
    command.add_argument("--graph", action="store_true", help="run through the real ROS 2 graph, in lock step")
    add_result(command, "--json", metavar="FILE", help="also write the figures to FILE")
    command.add_argument(
        "--report",
        type=Path,
        metavar="RUN",
        help="also keep the episodes in the run folder in which the bundle was trained, and write its report anew",
    )

    command = add_command(
        commands, "report", _report, "write the report of a training: curves, success, failures and episodes"
    )
    command.add_argument("source", metavar="RUN", type=Path, help="a run folder of `rlfp train`")
    add_result(command, "--out", metavar="FILE", help="the HTML file (default: report.html in the run folder)")

    command = add_command(commands, "preview", _preview, "write an image of 36 episodes as the policy sees them")
    command.add_argument("--task", default="reach", help=f"{TASKS} (default: %(default)s)")
    add_arm_or_cell(command, "panda")
    command.add_argument("--profile", default="train", help=f"randomisation: {PROFILES} (default: %(default)s)")
    command.add_argument("--sweep", metavar="PARAMETER", help="also a sheet with one parameter from low to high")
    command.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the first episode (default: %(default)s)"
    )
    add_result(command, "--out", metavar="FILE", help="the image (default: runs/preview_<task>_<profile>.png)")


def _evaluate(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from rlfp_ros.evaluation.evaluate import evaluate, play_in_process
    from rlfp_ros.graph.rollout import play_graph
    from rlfp_ros.seeds import EVALUATION

    EVALUATION.episodes(options.seed, options.episodes)
    arm = arm_of(options)
    play: Play = play_graph if options.graph else play_in_process
    if options.report is not None:
        play = _album(options)
    successes = 0
    console = Console(highlight=False)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("", total=options.episodes)

        def report(number: int, outcome: Outcome) -> None:
            nonlocal successes
            successes += outcome.success
            progress.update(bar, completed=number + 1, description=f"{successes} of {number + 1} succeeded")

        result = evaluate(
            options.bundle,
            profile=options.profile,
            episodes=options.episodes,
            seed=options.seed,
            play=play,
            world=options.world,
            arm=arm,
            json_path=options.json,
            report=report,
        )
    low, high = result["wilson95"]
    console.print(
        f"[bold]{result['bundle']}[/] in {result['world']}, profile {result['profile']}: "
        f"{result['successes']} of {result['episodes']} succeeded, {result['success_rate']:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%})"
    )
    console.print(f"{result['mean_steps']:.0f} steps on average, {result['wall_s']:.0f} s")
    latency = result.get("camera_to_command_ms")
    if latency:
        console.print(f"camera to command: p50 {latency['p50']:.2f} ms, p99 {latency['p99']:.2f} ms, n {latency['n']}")
    if options.report is not None:
        from rlfp_ros.learning.report.training_report import write_report

        console.print(f"report: {write_report(options.report)}")
    return 0


def _album(options: argparse.Namespace) -> Play:
    """Return a way to play episodes that keeps them in a run folder, after checks that they belong there."""
    from rlfp_ros.contract import load_bundle
    from rlfp_ros.evaluation.album import Album
    from rlfp_ros.learning.report.training_report import check_bundle_of_run, read_run
    from rlfp_ros.schema import ConfigurationError

    if options.graph:
        raise ConfigurationError(
            "--report keeps the images of episodes that are played in process, so it cannot be used with --graph; "
            "leave one of them out"
        )
    read_run(options.report)
    check_bundle_of_run(load_bundle(options.bundle), options.report)
    return Album(options.report).play


def _report(options: argparse.Namespace) -> int:
    from rlfp_ros.learning.report.training_report import write_report

    print(write_report(options.source, options.out))
    return 0


def _preview(options: argparse.Namespace) -> int:
    from rlfp_ros.evaluation.preview import preview
    from rlfp_ros.seeds import EVALUATION

    EVALUATION.episodes(options.seed, 36)
    for path in preview(
        options.task,
        options.profile,
        arm=named_arm(arm_of(options) or "panda"),
        out=options.out,
        sweep=options.sweep,
        seed=options.seed,
    ):
        print(path)
    return 0
