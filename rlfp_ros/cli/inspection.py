"""Commands that print information: `inspect`, `doctor` and `plugins`."""

from __future__ import annotations

import argparse

from rlfp_ros.cli.parsing import Commands, add_command, add_result


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this file's commands."""
    command = add_command(commands, "inspect", _inspect, "describe a policy bundle and check it")
    command.add_argument("bundle", help="a bundle folder, or the name of one in models/")

    command = add_command(
        commands, "doctor", _doctor, "report what is installed, what is missing and the command that fixes it"
    )
    add_result(command, "--json", metavar="FILE", help="also write the findings to FILE")

    add_command(commands, "plugins", _plugins, "list everything that is selectable by name, plugins included")


def _inspect(options: argparse.Namespace) -> int:
    from rlfp_ros.evaluation.inspection import inspect_bundle

    inspect_bundle(options.bundle)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from rlfp_ros.cli import doctor

    return doctor.run(options.json)


def _plugins(options: argparse.Namespace) -> int:
    from rlfp_ros.cli import plugin_list

    return plugin_list.run()
