"""Tests that the commands of the tutorials and how-to pages work as they are written.

Pages that start the graph are in test_graph_pages.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from page_commands import GRAPH, TIMEOUT_S, commands, copy_with_environment, pages, run_commands

pytestmark = pytest.mark.timeout(TIMEOUT_S)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, with this environment."""
    return copy_with_environment(tmp_path_factory.mktemp("pages") / "clone")


@pytest.mark.parametrize("page", pages(graph=False))
def test_commands_of_the_page_run(page: Path, clone: Path) -> None:
    run_commands(page, clone)


def test_sizes_are_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    block = "   ```sh\n   ./rlfp train reach \\\n       --work 0.5 --seed 3\n   ```\n"
    page.write_text(f"1. Do:\n\n{block}\n```text\nsudo x\n```\n")
    assert commands(page) == ["./rlfp train reach --work 0.003 --seed 3 --evaluation-episodes 1\n"]


def test_pages_that_start_the_graph_are_found() -> None:
    assert GRAPH.search("./rlfp demo --episodes 3")
    assert GRAPH.search("./rlfp launch sim.launch.py episodes:=3")
    assert GRAPH.search("./rlfp evaluate runs/my_reach --graph")
    assert not GRAPH.search("./rlfp evaluate runs/my_reach --world mujoco")
    assert len(pages(graph=True)) >= 3
