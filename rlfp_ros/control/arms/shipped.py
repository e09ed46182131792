"""Registers each file in config/arms/ under its name."""

from rlfp_ros import paths
from rlfp_ros.control.arm import ARMS

for file in sorted((paths.share_directory() / "config" / "arms").glob("*.yaml")):
    ARMS.add(file.stem, file)
