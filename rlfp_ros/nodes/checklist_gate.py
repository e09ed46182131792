"""Refuses to enable the arm while the checklist is not green."""

from __future__ import annotations

import time

from rclpy.node import Node
from std_msgs.msg import String

from rlfp_ros.commissioning.checklist import ChecklistReport
from rlfp_ros.nodes import messages

MAX_AGE_S = 2.0  # it comes twice a second


class ChecklistGate:
    """Listens to safety/checklist for `node`."""

    def __init__(self, node: Node) -> None:
        self._newest: tuple[float, ChecklistReport] | None = None  # received at (steady, s), and its content
        # Not latched, because a report from before this node's start may be out of date.
        node.create_subscription(String, messages.CHECKLIST.name, self._on_checklist, messages.LATEST)

    def _on_checklist(self, message: String) -> None:
        self._newest = time.monotonic(), ChecklistReport.model_validate_json(message.data)

    @property
    def refusal(self) -> str:
        """Why the arm may not be enabled now; empty if it may."""
        if self._newest is None or time.monotonic() - self._newest[0] > MAX_AGE_S:
            return f"nothing comes on {messages.CHECKLIST.name}; is the checklist node running?"
        return self._newest[1].refusal
