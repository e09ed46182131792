"""Copies the repository for tests that build or run it elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {"runs", "build", "install", "log", "dist"}  # at the top only: rlfp_ros/learning/runs is source


def copy_source(target: Path) -> None:
    """Copy the source tree to `target` without environments, caches, and what commands and builds leave behind."""

    def ignored(folder: str, names: list[str]) -> set[str]:
        found = {name for name in names if name == "__pycache__" or name.endswith(".egg-info")}
        if Path(folder) == ROOT:
            found |= {name for name in names if name in LEFT_OUT or name.startswith(".")}
        return found

    shutil.copytree(ROOT, target, ignore=ignored)
