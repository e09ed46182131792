"""`rlfp operate`: replaces this process by the operator's page or terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from rlfp_ros.graph.arguments import parse_arguments, parse_assignments
from rlfp_ros.graph.dds import environment
from rlfp_ros.graph.environment_check import check_environment
from rlfp_ros.graph.node_process import child_environment
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.operator.page_address import check_packages, check_port
from rlfp_ros.schema import ConfigurationError

ARGUMENTS = ("namespace", "domain_id", "transport")
PORT = "operator_port"  # argument of the page


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
    arguments = _parse(words, ARGUMENTS)
    if not sys.stdin.isatty():
        raise ConfigurationError("operate: standard input is not a terminal; start it in one")
    _become("operator_terminal", arguments, ())


def become_page(words: Sequence[str]) -> NoReturn:
    """Replace this process by the node `operator`, which serves the operator's page for a graph that runs.

    Parameters
    ----------
    words
        `name:=value`, with names of ARGUMENTS, or PORT.

    Raises
    ------
    ConfigurationError
        If an argument is invalid, the port is taken, or the environment keeps nodes from communicating.
    """
    arguments = _parse(words, (*ARGUMENTS, PORT))
    check_packages()
    port = arguments[PORT]
    if port:
        check_port(port)
    _become("operator", arguments, ("-p", f"port:={port}"))


def _parse(words: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    given = parse_assignments(words, "operate")
    for name in given:
        if name not in names:
            raise ConfigurationError(f"operate: has no argument {name}; it has: {', '.join(names)}")
    return parse_arguments(REAL_ARM, given)


def _become(node: str, arguments: dict[str, Any], parameters: Sequence[str]) -> NoReturn:
    variables = child_environment(environment(arguments["transport"], arguments["domain_id"]))
    check_environment(variables, arguments["transport"])
    command = [sys.executable, "-P", "-m", f"rlfp_ros.nodes.{node}"]
    namespace = arguments["namespace"].strip("/")
    words = [*(("-r", f"__ns:=/{namespace}") if namespace else ()), *parameters]
    if words:
        command += ["--ros-args", *words]
    sys.stdout.flush()
    os.execve(command[0], command, variables)
