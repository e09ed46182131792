"""Generated parts of the page of parameters: what cameras and arms without a ROS driver can be set to."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from page_tables import table
from pydantic.fields import FieldInfo

from rlfp_ros.drivers.arm_driver import ARM_DRIVERS
from rlfp_ros.drivers.camera import CAMERAS
from rlfp_ros.plugins import Registry

Row = Callable[[str, FieldInfo], tuple[str, ...]]  # of a field's name and content


def cameras(row: Row) -> str:
    """Settings of every camera that needs no ROS driver."""
    return _tables(CAMERAS, "Settings", "setting", row)


def arm_drivers(row: Row) -> str:
    """Parameters of every driver of an arm that needs no ROS driver."""
    return _tables(ARM_DRIVERS, "Parameters", "parameter", row)


def _tables(registry: Registry[Any], schema: str, column: str, row: Row) -> str:
    parts = []
    for name in registry:
        first_line = (inspect.getdoc(registry[name]) or "").partition("\n")[0]
        fields = getattr(registry[name], schema).model_fields
        rows = (row(field, content) for field, content in fields.items())
        parts += [f"### {name}\n\n{first_line}", table((column, "default", "range", "what it is"), rows)]
    return "\n\n".join(parts)
