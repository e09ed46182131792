"""What every command that trains or moves an arm says about it first."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlfp_ros.control.arm import Arm


def named_arm(name_or_path: str) -> Arm:
    """Load an arm by name or from a file, and warn about it. Raises ConfigurationError if it is missing or wrong."""
    from rlfp_ros.control.arm import load_arm

    return warned_about(load_arm(name_or_path))


def warned_about(arm: Arm) -> Arm:
    """Print what a person should know about an arm on standard error; return the arm."""
    from rlfp_ros.commissioning.arm_check import concerns

    for concern in concerns(arm):
        print(f"warning: {concern}", file=sys.stderr)
    return arm
