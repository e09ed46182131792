"""Tests that the commands of those tutorials and how-to pages that start the graph work as they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_commands import TIMEOUT_S, copy_with_environment, pages, run_commands

pytestmark = [pytest.mark.timeout(TIMEOUT_S), pytest.mark.graph]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, with this environment."""
    return copy_with_environment(tmp_path_factory.mktemp("pages") / "clone")


@pytest.mark.parametrize("page", pages(graph=True))
def test_commands_of_the_page_run(page: Path, clone: Path) -> None:
    run_commands(page, clone)
