"""The package's declared requirements by set, and the command that installs missing ones."""

from __future__ import annotations

import configparser
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def requirement_sets() -> dict[str, list[Requirement]]:
    """Return the declared requirements by set: from setup.cfg in a source tree, else from the installed metadata."""
    declared = Path(__file__).resolve().parents[1] / "setup.cfg"
    if declared.exists():
        config = configparser.ConfigParser(interpolation=None)
        config.read(declared, encoding="utf-8")
        texts = {"core": config["options"]["install_requires"], **config["options.extras_require"]}
        return {name: [Requirement(line) for line in text.split("\n") if line.strip()] for name, text in texts.items()}
    sets: dict[str, list[Requirement]] = {}
    for line in metadata.requires("rlfp_ros") or []:
        requirement = Requirement(line)
        extra = str(requirement.marker).partition("extra == ")[2].strip("\"'") if requirement.marker else ""
        sets.setdefault(extra or "core", []).append(requirement)
    return sets


def install_command(requirements: Iterable[Requirement]) -> str:
    """Return the pip command for this interpreter, with the declared versions."""
    wanted = (f"{r.name}[{','.join(sorted(r.extras))}]{r.specifier}" for r in requirements)
    quoted = " ".join(f"'{text.replace('[]', '')}'" for text in wanted)
    return f"{sys.executable} -m pip install {quoted}"


def fix_for(package: str) -> str:
    """Return how to get a Python package that is missing: the set that declares it, and the command.

    ROS packages have a prefix on PyPI: `rclpy` is found as `ros-rclpy`.
    """
    wanted = {canonicalize_name(package), canonicalize_name(f"ros-{package}")}
    for name, requirements in requirement_sets().items():
        found = [requirement for requirement in requirements if canonicalize_name(requirement.name) in wanted]
        if found and name.startswith("ros"):
            # The wheels need each other, in exactly these versions.
            return f"it is in the requirement set {name!r}; run: {install_command(requirements)}"
        if found:
            return f"it is in the requirement set {name!r}; run: {install_command(found)}"
    return f"run: {install_command([Requirement(canonicalize_name(package))])}"
