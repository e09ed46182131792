"""The `rlfp` command. Each file holds one group of commands; what a command needs is imported when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rlfp_ros import __version__
from rlfp_ros.cli import arm, bench, cell, commission, data, evaluate, inspection, learn_on_arm, run, train
from rlfp_ros.cli.parsing import Run, add_plugin_option, check_results


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    An error that the user can correct is one line on standard error and exit code 2.
    """
    parser = build_parser()
    words = list(sys.argv[1:] if argv is None else argv)
    # argparse would take pytest's options for its own.
    passed_on = words[1:] if words[:1] == ["test"] and words[1:] not in (["-h"], ["--help"]) else []
    options = parser.parse_args(words[: len(words) - len(passed_on)])
    options.pytest_arguments = passed_on
    command: Run | None = getattr(options, "run", None)
    if command is None:
        parser.print_help()
        return 2
    try:
        _load_plugins([*getattr(options, "plugins", []), *getattr(options, "command_plugins", [])])
        check_results(options)
        return command(options)
    except KeyboardInterrupt:
        print("\nrlfp: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `rlfp inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        print(f"rlfp: {error.filename}: {error.strerror}; correct that, then run the command again", file=sys.stderr)
        return 2
    except (ValueError, ImportError) as error:
        from rlfp_ros.schema import ConfigurationError

        if isinstance(error, ConfigurationError):
            print(f"rlfp: {error}", file=sys.stderr)
            return 2
        if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("rlfp_ros"):
            print(
                f"rlfp: the Python package {error.name!r} is missing; {_way_to_get(error.name or '')}", file=sys.stderr
            )
            return 2
        raise


def _way_to_get(module: str) -> str:
    try:
        from rlfp_ros.requirements import fix_for
    except ModuleNotFoundError:  # the packages of the core are not installed
        return "`rlfp doctor` shows how to get it"
    return fix_for(module.partition(".")[0])


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="rlfp",
        description="Train manipulation policies from pixels and run them on ROS 2, in simulation and on an arm.",
    )
    parser.add_argument("--version", action="version", version=f"rlfp_ros {__version__}")
    add_plugin_option(parser, "plugins")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for group in (run, train, learn_on_arm, evaluate, arm, cell, commission, data, inspection, bench):
        group.add_commands(commands)
    return parser


def _load_plugins(files: Sequence[Path]) -> None:
    """Load plugin files, and name them in the environment so that child processes load them too."""
    if not files:
        return
    from rlfp_ros import plugins

    paths = [str(path.expanduser().resolve()) for path in files]
    named = [name for name in os.environ.get(plugins.VARIABLE, "").split(os.pathsep) if name]
    os.environ[plugins.VARIABLE] = os.pathsep.join(dict.fromkeys([*named, *paths]))
    for path in paths:
        plugins.load_file(Path(path))
