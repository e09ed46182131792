"""Commands that need the source tree: `bench` and `test`."""

from __future__ import annotations

import argparse
import os
import sys

from rlfp_ros.cli import parsing
from rlfp_ros.cli.parsing import Commands, add_command


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this file's commands."""
    command = add_command(commands, "bench", _bench, "run a measurement in benchmarks/", passes_on=True)
    command.add_argument("benchmark", nargs="?", help="the name of a script in benchmarks/; without it, list them")
    command.add_argument(
        "benchmark_arguments",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="options of the script, such as --json FILE",
    )
    add_command(commands, "test", _test, "run the tests; further words go to pytest", passes_on=True)


def _bench(options: argparse.Namespace) -> int:
    import ast
    import importlib

    from rlfp_ros.schema import ConfigurationError

    folder = parsing.source_tree("benchmarks") / "benchmarks"
    if options.benchmark is None:
        for script in sorted(folder.glob("*.py")):
            summary = (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").partition("\n")[0]
            print(f"{script.stem:16} {summary}")
        return 0
    script = folder / f"{options.benchmark}.py"
    if not script.exists():
        names = ", ".join(sorted(path.stem for path in folder.glob("*.py")))
        raise ConfigurationError(f"bench: {options.benchmark!r} is not a script in benchmarks/; there is: {names}")
    sys.path.insert(0, str(folder))  # imported by name, so that a benchmark's own processes can import it too
    return int(importlib.import_module(script.stem).main(list(options.benchmark_arguments)) or 0)


def _test(options: argparse.Namespace) -> int:
    import pytest

    os.chdir(parsing.source_tree("test"))
    whole = ["test", "--durations", "20"]
    if len(os.sched_getaffinity(0)) > 1:
        whole += ["-n", "2"]  # test/lanes.py says which tests run beside others
    return int(pytest.main(options.pytest_arguments or whole))
