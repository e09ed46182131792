"""`rlfp operate --terminal`: replaces this process by the operator's terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from rlfp_ros.graph.arguments import parse_arguments, parse_assignments
from rlfp_ros.graph.dds import environment
from rlfp_ros.graph.environment_check import check_environment
from rlfp_ros.graph.node_process import child_environment
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.schema import ConfigurationError

ARGUMENTS = ("namespace", "domain_id", "transport")


def become_terminal(words: Sequence[str]) -> NoReturn:
    """Replace this process by the node `operator_terminal`, in the foreground of its terminal.

    Parameters
    ----------
    words
        `name:=value`, with names of ARGUMENTS.

    Raises
    ------
    ConfigurationError
        If an argument is invalid, standard input is not a terminal, or the environment keeps nodes from communicating.
    """
    given = parse_assignments(words, "operate")
    for name in given:
        if name not in ARGUMENTS:
            raise ConfigurationError(f"operate: has no argument {name}; it has: {', '.join(ARGUMENTS)}")
    arguments = parse_arguments(REAL_ARM, given)
    if not sys.stdin.isatty():
        raise ConfigurationError("operate: standard input is not a terminal; start it in one")
    variables = child_environment(environment(arguments["transport"], arguments["domain_id"]))
    check_environment(variables, arguments["transport"])
    command = [sys.executable, "-P", "-m", "rlfp_ros.nodes.operator_terminal"]
    namespace = arguments["namespace"].strip("/")
    if namespace:
        command += ["--ros-args", "-r", f"__ns:=/{namespace}"]
    sys.stdout.flush()
    os.execve(command[0], command, variables)
