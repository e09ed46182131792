"""The simulator node in real time, a process of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Process, TestNode

from rlfp_ros.nodes import messages
from rlfp_ros.nodes.simulator import CLOCK_TICKS

pytestmark = pytest.mark.graph
TICK_S = 1 / 240


def test_a_slow_renderer_lowers_the_frame_rate_and_says_so(
    test_node: TestNode, start_node: Callable[..., Process], tiny_bundle: Path
) -> None:
    """A picture that takes longer to draw than the camera's period: fewer of them, and time goes on in full ticks."""
    diagnostics, clock = test_node.listen(messages.DIAGNOSTICS), test_node.listen(messages.CLOCK)
    big = {"bundle": tiny_bundle, "image_width": 900, "image_height": 900, "profile": "none"}
    start_node("simulator", big)

    def slowed() -> Any:
        statuses = [status for array in diagnostics for status in array.status if status.name == "simulator"]
        return next((status for status in statuses if "the camera runs at" in status.message), None)

    status = test_node.spin_until(slowed, what="a word on the camera's rate")
    values = {value.key: value.value for value in status.values}
    assert float(values["camera_rate_hz"]) < 30
    assert "drawing takes" in status.message
    stamps = [messages.stamp_ns(message.clock) * 1e-9 for message in clock]
    steps = {round((after - before) / TICK_S) for before, after in itertools.pairwise(stamps)}
    assert CLOCK_TICKS in steps  # ticks as ever; a few messages may be lost on the way
