"""Commands for recorded data: `dataset`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rlfp_ros.cli.commission import add_topics, topic_choice
from rlfp_ros.cli.parsing import ARMS, Commands, add_command


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this file's commands."""
    command = add_command(
        commands,
        "dataset",
        _dataset,
        "turn recorded bags into episodes on the images that the policy saw; `dataset info DIR` describes a dataset",
    )
    command.add_argument(
        "bags", nargs="+", type=Path, metavar="BAG", help="recorded bags of the running graph; or: info DIR"
    )
    command.add_argument("--out", type=Path, metavar="DIR", help="the dataset's folder, which must not exist")
    command.add_argument("--bundle", default="reach_panda", help="the bundle that ran (default: %(default)s)")
    command.add_argument("--arm", help=f"{ARMS} (default: the bundle's)")
    add_topics(command)


def _dataset(options: argparse.Namespace) -> int:
    from rlfp_ros.data import info
    from rlfp_ros.schema import ConfigurationError

    if options.bags[0] == Path("info"):  # a bag of this name is ./info
        if len(options.bags) != 2:
            raise ConfigurationError(f"dataset info has {len(options.bags) - 1} folders, expected one dataset")
        return info.run(options.bags[1])
    if options.out is None:
        raise ConfigurationError("dataset has no --out, expected the folder to write the episodes to")
    from rlfp_ros.contract import load_bundle
    from rlfp_ros.control.trained_arm import choose_arm
    from rlfp_ros.data.build import build_dataset

    bundle = load_bundle(options.bundle)
    build_dataset(options.bags, bundle, choose_arm(bundle, options.arm), options.out, topic_choice(options))
    return info.run(options.out)
