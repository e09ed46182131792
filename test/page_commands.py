"""The commands of the tutorials and how-to pages, and a copy of the repository in which they run.

A block ```` ```sh ```` of a page is run by bash in a copy of the repository, the blocks of a page one after the other.
Only sizes are replaced or added, so that a training takes seconds: see `SIZES`. With RLFP_FULL_LENGTH=1 not even those.
Blocks in another language (`text` for what needs an arm, `yaml`, `python`) are not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest
from source_copy import copy_source

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs" / "tutorials").rglob("*.md"), *(ROOT / "docs" / "how-to").rglob("*.md")])
BLOCK = re.compile(r"^(?P<indent> *)```sh\n(?P<code>.*?)^(?P=indent)```", re.DOTALL | re.MULTILINE)
SIZES = {"--steps ": "2000", "--work ": "0.003", "--episodes ": "1", "--evaluation-episodes ": "1", "episodes:=": "1"}
GRAPH = re.compile(r"rlfp (demo|launch)\b|--graph\b")  # commands that start the graph, which has real-time limits

FULL_LENGTH = os.environ.get("RLFP_FULL_LENGTH") == "1"  # nothing is replaced then; hours
TIMEOUT_S = 6 * 3600 if FULL_LENGTH else 600


def commands(page: Path) -> list[str]:
    """The page's blocks, as they are written but for sizes."""
    blocks = []
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        code = re.sub(r"\\\n\s*", "", textwrap.dedent(match["code"]))  # continued lines are one
        if FULL_LENGTH:
            blocks.append(code)
            continue
        for option, size in SIZES.items():
            code = re.sub(rf"(?<={re.escape(option)})[\d.]+", size, code)
        blocks.append(re.sub(r"^\./rlfp (?:--plugin \S+ )?train .*$", _shorter_training, code, flags=re.MULTILINE))
    return blocks


def _shorter_training(match: re.Match[str]) -> str:
    """A training of full length, which names no size, gets the smallest sizes."""
    command = match[0] if "--algorithm" in match[0] or "--work" in match[0] else f"{match[0]} --work 0.003"
    return command if "--evaluation-episodes" in command else f"{command} --evaluation-episodes 1"


def pages(graph: bool) -> list[object]:
    """Return the pages with commands as parameters of a test: those that start the graph, or all others."""
    found = ((page, "\n".join(commands(page))) for page in PAGES)
    return [
        pytest.param(page, id=str(page.relative_to(ROOT / "docs")))
        for page, code in found
        if code and bool(GRAPH.search(code)) == graph
    ]


def copy_with_environment(folder: Path) -> Path:
    """Copy the repository to `folder`, with this environment."""
    copy_source(folder)
    (folder / ".venv").symlink_to((ROOT / ".venv").resolve())
    return folder


def run_commands(page: Path, clone: Path) -> None:
    """Run the page's commands in the copy; fail with the output of the first that fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}
    for code in commands(page):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code], cwd=clone, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
