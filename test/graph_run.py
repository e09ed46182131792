"""Resolves a graph for tests of its processes and their parameters."""

from __future__ import annotations

from typing import Any

import pytest

from rlfp_ros.graph.description import Graph, Resolved
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.graph.sim import SIM

BOTH = pytest.mark.parametrize("which", [SIM, REAL_ARM], ids=lambda which: which.name)


def run_of(which: Graph, **overrides: Any) -> Resolved:
    """Resolved without loading the bundle: these tests are about the graph."""
    return resolve(which, overrides, check=False)
