"""Commands for recorded data: `dataset`, `export-lerobot`, `play` and `adapt`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rlfp_ros.cli.commission import add_topics, topic_choice
from rlfp_ros.cli.parsing import (
    ARMS,
    CELLS,
    Commands,
    add_arm_or_cell,
    add_command,
    add_result,
    arm_of,
    natural,
    port,
    positive,
)


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this file's commands."""
    command = add_command(
        commands,
        "dataset",
        _dataset,
        "turn recorded bags into episodes on the images that the policy saw; `dataset info DIR` describes a dataset",
    )
    command.add_argument(
        "bags", nargs="*", type=Path, metavar="BAG", help="recorded bags of the running graph; or: info DIR"
    )
    command.add_argument(
        "--from-lerobot",
        type=Path,
        metavar="DIR",
        help="use the episodes of a LeRobotDataset v3.0 instead of bags",
    )
    command.add_argument(
        "--mapping",
        type=Path,
        metavar="FILE",
        help="which values of the LeRobot dataset are the arm's joints (default: as `export-lerobot` writes them)",
    )
    add_result(command, "--out", folder=True, metavar="DIR", help="the dataset's folder, which must not exist")
    _add_bundle(command)
    add_topics(command)

    command = add_command(
        commands,
        "export-lerobot",
        _export_lerobot,
        "write recorded bags as a LeRobotDataset v3.0, one row per image that the policy saw",
    )
    command.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="recorded bags of the running graph")
    add_result(
        command,
        "--out",
        folder=True,
        required=True,
        metavar="DIR",
        help="the LeRobot dataset's folder, which must not exist",
    )
    _add_bundle(command)
    command.add_argument("--task", default="", metavar="TEXT", help="the task in words (default: the bundle's task)")
    command.add_argument(
        "--gaps",
        default="refuse",
        choices=("refuse", "split", "repeat"),
        help="if images are missing: refuse the bag, split the episode, or repeat the image before (default: refuse)",
    )
    add_topics(command)

    command = add_command(
        commands, "play", _play, "serve a bag with a timeline to Foxglove or Lichtblick on this machine, read-only"
    )
    command.add_argument("bag", type=Path, metavar="BAG", help="a recorded bag")
    command.add_argument(
        "--port", type=port, default=8765, metavar="N", help="TCP port on 127.0.0.1 (default: %(default)s)"
    )

    command = add_command(
        commands, "adapt", _adapt, "adapt a bundle to the place of a recording, if that makes it better"
    )
    command.add_argument("bundle", help="the bundle that ran when the data was recorded; it is not changed")
    command.add_argument("--data", type=Path, required=True, metavar="DIR", help="a dataset, from `rlfp dataset`")
    command.add_argument(
        "--method", required=True, metavar="NAME", help="how to adapt it; `rlfp plugins` lists the methods"
    )
    add_result(
        command,
        "--out",
        folder=True,
        required=True,
        metavar="DIR",
        help="the adapted bundle's folder, which must not exist",
    )
    command.add_argument(
        "--extrinsics",
        default="",
        metavar="FILE",
        help="the camera's place, written by `calibrate extrinsics` (default: fitted to the recording)",
    )
    add_arm_or_cell(command, "the bundle's", f"the cell with the arm and the camera's place: {CELLS}")
    command.add_argument(
        "--updates", type=positive, default=300, metavar="N", help="gradient steps (default: %(default)s)"
    )
    command.add_argument(
        "--images", type=positive, default=1200, metavar="N", help="images of training to render (default: %(default)s)"
    )
    command.add_argument(
        "--seed", type=natural, default=0, metavar="S", help="of the adaptation (default: %(default)s)"
    )


def _add_bundle(command: argparse.ArgumentParser) -> None:
    """Add the options that say which bundle and arm are in a bag, and which bags are used."""
    command.add_argument("--bundle", default="reach_panda", help="the bundle that ran (default: %(default)s)")
    command.add_argument("--arm", help=f"{ARMS} (default: the bundle's)")
    command.add_argument(
        "--discarded", action="store_true", help="use bags that a person labelled discard, too (default: skip them)"
    )


def _dataset(options: argparse.Namespace) -> int:
    from rlfp_ros.data import info
    from rlfp_ros.schema import ConfigurationError

    if options.bags[:1] == [Path("info")]:  # a bag of this name is ./info
        if len(options.bags) != 2:
            raise ConfigurationError(f"dataset info has {len(options.bags) - 1} folders, expected one dataset")
        return info.run(options.bags[1])
    if bool(options.bags) == (options.from_lerobot is not None):
        found = f"{len(options.bags)} bags and {'a' if options.from_lerobot else 'no'} --from-lerobot"
        raise ConfigurationError(f"dataset has {found}, expected either bags or the folder of a LeRobot dataset")
    if options.mapping is not None and options.from_lerobot is None:
        raise ConfigurationError("dataset has --mapping without --from-lerobot; remove it, or name the LeRobot dataset")
    if options.out is None:
        raise ConfigurationError("dataset has no --out, expected the folder to write the episodes to")
    from rlfp_ros.contract import load_bundle
    from rlfp_ros.control.trained_arm import choose_arm
    from rlfp_ros.data.build import build_dataset

    bundle = load_bundle(options.bundle)
    arm = choose_arm(bundle, options.arm)
    if options.from_lerobot is not None:
        from rlfp_ros.data.lerobot.convert import convert_lerobot

        convert_lerobot(options.from_lerobot, bundle, arm, options.out, options.mapping)
        return info.run(options.out)
    build_dataset(options.bags, bundle, arm, options.out, topic_choice(options), options.discarded)
    return info.run(options.out)


def _export_lerobot(options: argparse.Namespace) -> int:
    from rlfp_ros.contract import load_bundle
    from rlfp_ros.control.trained_arm import choose_arm
    from rlfp_ros.data.lerobot import export

    bundle = load_bundle(options.bundle)
    arm = choose_arm(bundle, options.arm)
    how = export.ExportOptions(options.task, options.gaps, options.discarded)
    return export.run(options.bags, bundle, arm, options.out, how, topic_choice(options))


def _play(options: argparse.Namespace) -> int:
    from rlfp_ros.recording.foxglove_server import serve_bag

    serve_bag(options.bag, options.port)
    return 0


def _adapt(options: argparse.Namespace) -> int:
    from rlfp_ros.adaptation import adapt
    from rlfp_ros.adaptation.adaptation import AdaptationTraining

    arm = arm_of(options)
    extrinsics = options.extrinsics or (arm if options.cell and arm else "")
    training = AdaptationTraining(images=options.images, updates=options.updates, seed=options.seed)
    return adapt.run(options.bundle, options.data, options.method, options.out, training, arm, extrinsics)
