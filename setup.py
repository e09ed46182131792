"""Installs the data beside the Python package, and what differs between pip and colcon. The rest is in setup.cfg.

- pip puts console scripts on PATH, so a wheel has only `rlfp`. colcon puts them into lib/rlfp_ros, where `ros2 run`
  looks for a package's executables, so there every node is one.
- pip needs `python_requires`. colcon cannot read it.
"""

import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
PACKAGE = "rlfp_ros"


def data_files():
    """(folder in the install prefix, files) for setuptools, the tree kept as it is in the repository."""
    entries = [
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
    ]
    for top in ("launch", "config", "models", "sim", "cells"):
        for folder in sorted(path for path in [ROOT / top, *(ROOT / top).rglob("*")] if path.is_dir()):
            relative = folder.relative_to(ROOT)
            files = sorted(path.name for path in folder.iterdir() if path.is_file())
            if files and not any(part.startswith((".", "__")) for part in relative.parts):
                entries.append((f"share/{PACKAGE}/{relative}", [f"{relative}/{name}" for name in files]))
    return entries


# colcon reads the options with --dry-run and builds with install or develop; pip and build call other commands.
BY_COLCON = {"--dry-run", "install", "develop"} & set(sys.argv)
NODES = sorted(path.stem for path in (ROOT / PACKAGE / "nodes").glob("*.py") if "\ndef main(" in path.read_text())
COMMAND = f"rlfp = {PACKAGE}.cli:main"

setup(
    data_files=data_files(),
    **(
        {"entry_points": {"console_scripts": [COMMAND, *(f"{name} = {PACKAGE}.nodes.{name}:main" for name in NODES)]}}
        if BY_COLCON
        else {"entry_points": {"console_scripts": [COMMAND]}, "python_requires": ">=3.11,<3.13"}
    ),
)
