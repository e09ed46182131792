"""Shared code of this package: adding a command, and types of option values."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Run = Callable[[argparse.Namespace], int]
Commands = argparse._SubParsersAction  # argparse has no public name for what add_subparsers() returns

PROFILES = "the name of a file in sim/randomization/, or a path"
ROOMS = "the name of a file in sim/scenes/, or a path"
CELLS = "the name of a file in cells/, or a path"
ARMS = "the name of a file in config/arms/, or a path"
TASKS = "a task; `rlfp plugins` lists them"


def add_command(
    commands: Commands[argparse.ArgumentParser], name: str, run: Run, text: str, passes_on: bool = False
) -> argparse.ArgumentParser:
    """Add a command that calls `run` with its parsed options.

    Parameters
    ----------
    commands
        The result of `add_subparsers`.
    text
        One line for the list of commands, without a capital letter and a full stop.
    passes_on
        Whether the words after the command are options of another program.
    """
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run)
    if passes_on:
        command.usage = f"rlfp {name} ..."
    add_plugin_option(command, "command_plugins")
    return command


def add_plugin_option(parser: argparse.ArgumentParser, destination: str) -> None:
    """Add `--plugin FILE`, which may be given before and after the command."""
    parser.add_argument(
        "--plugin",
        dest=destination,
        action="append",
        default=argparse.SUPPRESS,
        type=Path,
        metavar="FILE",
        help="load a Python file with your own tasks, arms, encoders or algorithms; can be repeated",
    )


def add_result(
    parser: argparse.ArgumentParser,
    option: str = "--json",
    *,
    folder: bool = False,
    page: Sequence[str] = (),
    **words: Any,
) -> None:
    """Add an option that names a file or folder for results; `check_results` checks it before the work begins.

    Parameters
    ----------
    option
        Its name, such as --json.
    folder
        Whether it names a folder.
    page
        For a page of the documentation: the lines between which text is put, as first, last, first, last ...
    words
        More arguments of `add_argument`.
    """
    action = parser.add_argument(option, type=Path, **words)
    parser.set_defaults(result_paths=(*(parser.get_default("result_paths") or ()), (action.dest, folder, tuple(page))))


def add_arm_or_cell(command: argparse.ArgumentParser, default: str, text: str = "") -> None:
    """Add `--arm` and `--cell`, of which a user gives one at most; `arm_of` returns the choice.

    Parameters
    ----------
    command
        The command.
    default
        How the help names the arm that is used without them.
    text
        The help of `--cell`.
    """
    command.add_argument("--arm", metavar="NAME", help=f"{ARMS} (default: {default})")
    command.add_argument(
        "--cell",
        metavar="NAME",
        help=text or f"the arm in its cell, with camera, object and obstacles: {CELLS}; instead of --arm",
    )


def arm_of(options: argparse.Namespace) -> str | None:
    """Return the arm that the options of `add_arm_or_cell` name, or the path of a cell's file; None for neither.

    Raises ConfigurationError if both are given, or the cell does not exist.
    """
    from rlfp_ros.control.arm import find_cell
    from rlfp_ros.schema import ConfigurationError

    arm: str | None = options.arm
    if options.cell is None:
        return arm
    if arm is not None:
        raise ConfigurationError(
            f"--arm is {arm!r} and --cell is {options.cell!r}; the cell names its arm, leave out --arm"
        )
    return str(find_cell(options.cell))


def check_results(options: argparse.Namespace) -> None:
    """Check that the results can be written to the files and folders that the options name.

    Raises ConfigurationError for the first of them that cannot be written to.
    """
    from rlfp_ros.evaluation.results import around
    from rlfp_ros.files import check_writable, check_writable_folder

    for name, folder, page in getattr(options, "result_paths", ()):
        path = getattr(options, name)
        if path is None:
            continue
        for first, last in zip(page[::2], page[1::2], strict=True):
            around(path, first, last)
        (check_writable_folder if folder else check_writable)(path)


def parse_benchmark(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a benchmark's arguments and check the files and folders for its results."""
    options = parser.parse_args(arguments)
    check_results(options)
    return options


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def port(text: str) -> int:
    """Parse the number of a TCP port; 0 means any free one."""
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{value} is not a port, expected 0 to 65535")
    return value


def natural(text: str) -> int:
    """Parse a whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


def duration(text: str) -> float:
    """Parse a number above 0, which may be infinite."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


def amount(text: str) -> float:
    """Parse a finite number of at least 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} is not a number from 0")
    return value


def fraction(text: str) -> float:
    """Parse a number above 0 and at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0 and at most 1")
    return value


def source_tree(folder: str) -> Path:
    """Return the root of the source tree. Raises ConfigurationError if the package is installed without `folder`."""
    from rlfp_ros.schema import ConfigurationError

    root = Path(__file__).resolve().parents[2]
    if not (root / folder).is_dir():
        raise ConfigurationError(
            f"{folder}/ is only in the source tree, not beside {root / 'rlfp_ros'}; use ./rlfp of a clone"
        )
    return root
