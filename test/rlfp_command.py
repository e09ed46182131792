"""Runs `rlfp` as a user does, in a process of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

from python_process import run_python

ROOT = Path(__file__).resolve().parents[1]


def rlfp(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return run_python("-P", "-m", "rlfp_ros.cli", *arguments, cwd=cwd)
