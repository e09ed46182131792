"""The operator's page on a real server, with a robot and a recorder that take notes instead of a graph."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from browser import open_page
from operator_robot import NotedRecorder, NotedRobot, controller, seen_image
from playwright.sync_api import Browser, Page, expect

from rlfp_ros.commissioning.checklist import ChecklistReport, Line
from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.control.safety.verdict import State
from rlfp_ros.operator.desk import Desk
from rlfp_ros.operator.page_address import AccessSettings
from rlfp_ros.operator.server import OperatorServer
from rlfp_ros.recording.bag_list import RecorderState

DISABLED = SafetyState(state=State.DISABLED, reasons=("not_enabled",))
GREEN = Line(name="images", ok=True, found="30.0 Hz, 40 ms old")


class Cell:
    """A server with a robot that takes notes, and a camera."""

    def __init__(self, port: int = 0) -> None:
        self.robot = NotedRobot()
        self.recorder = NotedRecorder()
        self.desk = Desk(self.robot)
        self.desk.recording.recorder = self.recorder
        self.desk.on_controller(controller())
        self.desk.on_state(DISABLED)
        self.desk.on_checklist(ChecklistReport(lines=(GREEN,)))
        self.server = OperatorServer(self.desk, AccessSettings(port=port))
        self.address = self.server.address_with_token
        self.server.start()
        self._leaving = threading.Event()
        self._camera: threading.Thread | None = None

    def film(self, rate_hz: float = 15.0) -> None:
        """Give the desk images at a rate, with everything that is drawn into them."""

        def run() -> None:
            number = 0
            while not self._leaving.wait(1 / rate_hz):
                number += 1
                image = seen_image(
                    number,
                    time.monotonic(),
                    features=np.array([[0.3, 0.3, 1.0]], np.float32),
                    object_position=np.array([0.5, 0.0, 0.0]),
                    object_covariance=np.diag([1e-3, 1e-3, 1e-3]),
                    goal=np.array([0.4, 0.2, 0.0]),
                    domain_shift=0.3,
                )
                self.desk.on_image(image)
                self.server.wake()

        self._camera = threading.Thread(target=run, daemon=True)
        self._camera.start()

    def recorder_reports(self, **fields: Any) -> None:
        """Report as a recorder does."""
        state = RecorderState(**{"recording": False, "bag": ""} | fields)
        self.desk.recording.on_state(state, self.desk.clock())

    def close(self) -> None:
        self._leaving.set()
        if self._camera is not None:
            self._camera.join()
        self.server.stop()


@contextmanager
def watched_pages(chromium: Browser, cell: Cell) -> Iterator[Callable[..., Page]]:
    """Open pages; at the end none may have had an error in its scripts or a violation of its policy."""
    pages, faults = [], []

    def open_one(**how: Any) -> Page:
        page = open_page(chromium, cell.address, **how)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        pages.append(page)
        expect(page.locator("#state")).not_to_have_text("Connecting")
        return page

    yield open_one
    for page in pages:
        page.context.close()
    assert [fault for fault in faults if "WebSocket" not in fault and "Failed to load" not in fault] == []
