"""Installs what is data beside the Python package: `share/rlfp_ros` and the entry in the ament resource index.

Everything else, requirements included, is in setup.cfg.
"""

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
    for top in ("launch", "config", "models", "sim"):
        for folder in sorted(path for path in [ROOT / top, *(ROOT / top).rglob("*")] if path.is_dir()):
            relative = folder.relative_to(ROOT)
            files = sorted(path.name for path in folder.iterdir() if path.is_file())
            if files and not any(part.startswith((".", "__")) for part in relative.parts):
                entries.append((f"share/{PACKAGE}/{relative}", [f"{relative}/{name}" for name in files]))
    return entries


setup(data_files=data_files())
