"""The graph as data: which nodes, with which parameters, remappings and conditions.

`sim.py` and `real_arm.py` hold the two graphs, `catalogue.py` finds them by name, and `resolution.py` decides what runs
for given launch arguments. `ros2_launch.py` turns its answer into launch_ros actions (for `launch/*.launch.py`),
`runner.py` into child processes (for `./rlfp launch`, demo and evaluate).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

# Launch arguments after parsing: str, int, float or bool, by the argument's kind.
Arguments = Mapping[str, Any]
Kind = Literal["text", "integer", "number", "flag"]


class OnExit(Enum):
    """The effect of a node's end on the graph."""

    FINISH = "finish"  # exit code 0 is the graph's regular end, any other a failure
    FAIL = "fail"  # the graph cannot continue without it: any exit is a failure
    CONTINUE = "continue"  # the exit is reported, and the graph continues


@dataclass(frozen=True)
class Respawn:
    """Restarts a node that died, but never after exit code 2, a configuration error, because it would fail again."""

    attempts: int = 5  # in a row; after that the node's `on_exit` applies
    delay_s: float = 1.0  # before the first restart
    factor: float = 2.0  # each further restart waits this much longer
    max_delay_s: float = 10.0
    healthy_s: float = 30.0  # a run of this length resets the number of attempts

    def delay(self, attempt: int) -> float:
        """Seconds to wait before restart number `attempt`, counted from 1."""
        return min(self.delay_s * self.factor ** (attempt - 1), self.max_delay_s)


@dataclass(frozen=True)
class Argument:
    """A launch argument, `name:=value` on the command line."""

    name: str
    default: str  # may name other arguments in braces: "{task}_{arm}"
    description: str  # with unit and range if it has them
    choices: tuple[str, ...] = ()
    kind: Kind = "text"
    minimum: float | None = None
    maximum: float | None = None
    pattern: str | None = None  # a whole-match regular expression for text


@dataclass(frozen=True)
class Node:
    """One process of the graph. `parameters` and `remappings` are functions of the launch arguments."""

    executable: str  # rlfp_ros.nodes.<executable>, and the name of the node
    description: str
    parameters: Callable[[Arguments], dict[str, Any]] = lambda arguments: {}
    remappings: Callable[[Arguments], dict[str, str]] = lambda arguments: {}
    condition: Callable[[Arguments], bool] = lambda arguments: True
    on_exit: OnExit = OnExit.FAIL
    respawn: Respawn | None = None
    publishes_images: bool = False  # gets the large shared-memory segment when the images need it


@dataclass(frozen=True)
class Graph:
    """A launch file as data."""

    name: str  # launch/<name>.launch.py and config/<name>.yaml
    description: str
    arguments: tuple[Argument, ...]
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class NodeProcess:
    """A node with all values filled in, as both launchers start it."""

    name: str
    executable: str
    namespace: str  # "" or "/name"
    parameters: dict[str, Any]
    parameter_files: tuple[Path, ...]  # read before `parameters`, which win
    remappings: dict[str, str]
    log_level: str
    environment: dict[str, str]  # in addition to the caller's
    on_exit: OnExit
    respawn: Respawn | None


@dataclass(frozen=True)
class Included:
    """A driver's own launch file, started beside the nodes."""

    package: str
    launch_file: str
    arguments: dict[str, str]
    environment: dict[str, str]  # on top of the caller's: the graph's DDS domain and transports


@dataclass(frozen=True)
class Resolved:
    """A graph with its arguments filled in."""

    graph: Graph
    arguments: dict[str, Any]
    processes: tuple[NodeProcess, ...]
    included: tuple[Included, ...] = ()


def describe(graph: Graph) -> str:
    """Return a graph's nodes and launch arguments as text."""
    lines = [graph.description, "", "Nodes:"]
    lines += [f"  {node.executable:<20} {node.description}" for node in graph.nodes]
    lines += ["", "Arguments (name:=value):"]
    for argument in graph.arguments:
        lines.append(f"  {argument.name}:={argument.default}")
        lines.append(
            f"      {argument.description}" + (f" [{' | '.join(argument.choices)}]" if argument.choices else "")
        )
    return "\n".join(lines)
