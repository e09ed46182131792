"""Commands for an arm's file: `arm check` and `arm capsules`."""

from __future__ import annotations

import argparse

from rlfp_ros.cli.parsing import ARMS, Commands, add_command, add_result, positive


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this file's commands."""
    command = commands.add_parser("arm", help="check an arm's file, or fit capsules to its meshes")
    parts = command.add_subparsers(title="what", metavar="WHAT", required=True)

    part = add_command(
        parts, "check", _check, "check joints, limits, tool, capsules and the reach of each task, and draw the arm"
    )
    part.add_argument("arm", help=ARMS)
    add_result(part, "--out", metavar="FILE", help="the image (default: runs/arm_check_NAME.png)")

    part = add_command(parts, "capsules", _capsules, "fit capsules to the meshes of each link, for the arm's file")
    part.add_argument("arm", help=ARMS)
    part.add_argument(
        "--meshes", choices=("collision", "visual"), default="collision", help="which meshes (default: %(default)s)"
    )
    part.add_argument("--most", type=positive, default=3, metavar="N", help="capsules per link (default: %(default)s)")
    add_result(part, "--out", metavar="FILE", help="write the section to FILE (default: standard output)")


def _check(options: argparse.Namespace) -> int:
    from rlfp_ros.commissioning import arm_check

    return arm_check.run(options.arm, options.out)


def _capsules(options: argparse.Namespace) -> int:
    from rlfp_ros.commissioning import capsules

    return capsules.run(options.arm, options.meshes, options.most, options.out)
