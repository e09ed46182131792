"""The graphs by the name of their launch file."""

from __future__ import annotations

from pathlib import Path

from rlfp_ros.graph.description import Graph
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.sim import SIM
from rlfp_ros.schema import ConfigurationError

GRAPHS = {graph.name: graph for graph in (SIM, REAL_ARM)}


def find_graph(name: str) -> Graph:
    """Return the graph of `sim`, `sim.launch.py` or `launch/sim.launch.py`. Raises ConfigurationError listing all."""
    graph = GRAPHS.get(Path(name).name.removesuffix(".launch.py"))
    if graph is None:
        files = ", ".join(f"{graph}.launch.py" for graph in GRAPHS)
        raise ConfigurationError(f"{name}: no such launch file; there is: {files}")
    return graph
