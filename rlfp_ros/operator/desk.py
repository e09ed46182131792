"""The operator's desk: all pages together, what they are shown, and what their messages may do. No network, no ROS."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from rlfp_ros.commissioning.checklist import ChecklistReport
from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.control.safety.verdict import Reason, State
from rlfp_ros.operator.action import SERVICES, Action, HeartbeatRule
from rlfp_ros.operator.clicked_goal import ClickedGoal, goal_of_click
from rlfp_ros.operator.open_page import Page
from rlfp_ros.operator.plots import Plots
from rlfp_ros.operator.reasons import STATES, in_words
from rlfp_ros.operator.recording_panel import RecordingPanel
from rlfp_ros.operator.requests import (
    Beat,
    Click,
    Drawn,
    Gain,
    JogRequest,
    LabelBag,
    Press,
    SendGoal,
    parse_request,
)
from rlfp_ros.operator.robot import Controller, Robot
from rlfp_ros.operator.seen_image import SeenImage
from rlfp_ros.schema import ConfigurationError

STATUS_S = 0.1  # between two statuses to a page
SHOWN_MAX_AGE_S = 1.0  # a beat of a page that shows an older status is not passed on
JOG_MAX_AGE_S = 0.5  # the same for a jog
JOG_NOTED_S = 1.0  # between two lines of the log about jogs
LEASE_S = 2.0  # the operator's place is free after this time without a beat
IMAGES = 90  # images whose clicks are understood, 3 s
SILENT_S = 5.0  # a controller that has not reported for this long is gone; it reports every second
NO_RECORDER = "no recorder is running; start the graph with operator:=true or record:=FOLDER"
WATCHES = "this page only watches; press Take control"
EVENTS = 30  # lines of the page's log


@dataclass(eq=False)
class Desk:
    """State of all pages. Its methods run in the server's thread, except `on_...`, which only replace values."""

    robot: Robot
    clock: Callable[[], float] = time.monotonic
    recording: RecordingPanel = field(default_factory=RecordingPanel)
    plots: Plots = field(default_factory=Plots)
    pages: list[Page] = field(default_factory=list)
    state: SafetyState | None = None
    checklist: ChecklistReport | None = None
    controller: Controller | None = None
    controller_missing: str = "Nothing comes on safety/state. Is the graph running?"
    current: SeenImage | None = None
    goal: np.ndarray | None = None
    heard_s: float | None = None  # when the controller last reported that it lives
    _operator: Page | None = None
    _lease: str = ""  # names the operator's place until another page takes it
    _noted: State | None = None  # newest state in the log
    _rule: HeartbeatRule = field(default_factory=HeartbeatRule)
    _images: OrderedDict[int, SeenImage] = field(default_factory=OrderedDict)
    _events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=EVENTS))
    _numbers: Any = field(default_factory=lambda: count(1))

    # --- from the graph, in its thread -----------------------------------------------------------------------------

    def on_state(self, state: SafetyState) -> None:
        """Handle a message of the topic safety/state."""
        before, self.state = self.state, state
        self._rule.on_state(state)
        # Reasons of an arm that moves come and go, and a simulator's arm waits for its joints before each episode.
        waits = state.state is State.HOLDING and state.reasons == (Reason.WAITING_FOR_JOINT_STATE,)
        stopped = before is not None and set(state.reasons) - set(before.reasons) and state.state is State.STOPPED
        if (state.state is not self._noted and not waits) or stopped:
            self._noted = state.state
            why = (
                ""
                if state.state is State.ACTIVE
                else " ".join(in_words(code, state.detail).meaning for code in state.reasons)
            )
            self._event(f"{state.state.value}{': ' if why else ''}{why}", True)

    def on_report(self) -> None:
        """Take note that the controller lives: it publishes its state only if that changes."""
        self.heard_s = self.clock()

    def on_checklist(self, report: ChecklistReport) -> None:
        """Handle a message of the topic safety/checklist."""
        self.checklist = report

    def on_controller(self, controller: Controller) -> None:
        """Take the controller's parameters."""
        self.controller = controller

    def on_image(self, image: SeenImage) -> None:
        """Take the newest image."""
        self.current = image

    def on_goal(self, goal: np.ndarray) -> None:
        """Take the goal [3] m, base frame, that the graph has now."""
        self.goal = goal

    @property
    def is_watched(self) -> bool:
        """Whether a page is open."""
        return bool(self.pages)

    # --- pages -----------------------------------------------------------------------------------------------------

    def join(self, wake: Callable[[], None] = lambda: None) -> Page:
        """Add a page. The first one operates; `wake` tells its sender that there is something new."""
        page = Page(next(self._numbers), self.clock(), wake)
        self.pages.append(page)
        if self._holder() is None:
            self._begin_lease(page)
        return page

    def leave(self, page: Page) -> None:
        """Remove a page, and give its place free."""
        self.pages.remove(page)
        if self._operator is page:
            self._operator = None
            self._note(page, "leave", True, "the page was closed; its heartbeat ended")

    def is_operator(self, page: Page) -> bool:
        """Whether the page's commands and heartbeats count."""
        return self._operator is page

    def _holder(self) -> Page | None:
        """Return the operator if it is alive. A page that has just joined has not sent a beat yet."""
        page = self._operator
        return page if page and self.clock() - max(page.beat_s, page.joined_s) < LEASE_S else None

    def receive(self, page: Page, text: str) -> None:
        """Handle a message of a page.

        Raises
        ------
        BadRequest
            If no page of ours would send it. Close its connection.
        """
        request = parse_request(text)
        if isinstance(request, Press) and request.type == "stop":
            self.stop(f"page {page.number}")
            return
        page.limit_rate(self.clock())
        if isinstance(request, Beat):
            self._beat(page, request)
        elif isinstance(request, JogRequest):
            self._jog(page, request)
        elif isinstance(request, Drawn):
            if page.in_flight == request.image:
                page.in_flight = None
                page.images_drawn += 1
                page.wake()
        elif isinstance(request, Press) and request.type == "take":
            self._take(page)
        elif isinstance(request, Press) and request.type == "forget_goal":
            page.goal, page.goal_fault = None, ""
        elif not self.is_operator(page):
            self._note(page, request.type, False, WATCHES)
        elif isinstance(request, Press) and request.type == "release":
            self._operator = None
            self._note(page, "release", True, "gave its place free")
        elif isinstance(request, Press) and request.type in ("record", "end_record"):
            self._record(page, request.type)
        elif isinstance(request, LabelBag):
            self._label(page, request)
        elif isinstance(request, Press):
            self._call(page, Action(request.type))
        elif isinstance(request, Gain):
            self._set_gain(page, request.value)
        elif isinstance(request, Click):
            self._click(page, request)
        else:
            self._send_goal(page, request)

    def stop(self, source: str) -> None:
        """Stop the arm. For every page, and for POST /estop; it needs no place and no token, because it only stops."""
        self._rule.on_stop()
        self.robot.stop()
        self._event(f"{source}: STOP", True)
        self.robot.record({"from": source, "command": "stop"})

    def _beat(self, page: Page, beat: Beat) -> None:
        now = self.clock()
        page.beat_s = now
        age = now - 1e-3 * beat.shown
        page.round_trip_ms = 1e3 * age
        if self.is_operator(page) and self._rule.allows and -0.01 <= age <= SHOWN_MAX_AGE_S:
            self.robot.beat(self._lease)

    def _jog(self, page: Page, jog: JogRequest) -> None:
        """Pass a jog on if the page operates, shows the present, and the arm is enabled."""
        now = self.clock()
        refusal = ""
        if not self.is_operator(page):
            refusal = WATCHES
        elif not -0.01 <= now - 1e-3 * jog.shown <= JOG_MAX_AGE_S:
            refusal = "the page shows an old state; its connection is slow"
        elif not self._rule.allows or self.state is None or not self.state.enabled:
            refusal = "the arm is not enabled"
        if not refusal:
            if now - page.jog_s > JOG_NOTED_S:
                self._note(page, "jog", True, "moves the arm")
            page.jog_s = now
            self.robot.jog(self._lease, jog.linear, jog.angular)
        elif now - page.jog_refused_s > JOG_NOTED_S:
            page.jog_refused_s = now
            self._note(page, "jog", False, refusal)

    def _take(self, page: Page) -> None:
        holder = self._holder()
        if holder is not None and holder is not page:
            self._note(page, "take", False, f"page {holder.number} operates; let it hand over first")
            return
        self._begin_lease(page)

    def _begin_lease(self, page: Page) -> None:
        self._operator, self._lease = page, secrets.token_hex(8)
        self._note(page, "take", True, "operates")

    def _call(self, page: Page, action: Action) -> None:
        assert action in SERVICES
        self.robot.record({"from": f"page {page.number}", "command": action.value})
        self.robot.call(action, lambda ok, text: self._note(page, action.value, ok, text))

    def _set_gain(self, page: Page, value: float) -> None:
        controller = self.controller
        if controller is None:
            self._note(page, "gain", False, "the controller's parameters are not known yet")
            return
        low, high = controller.gain_range
        if not low <= value <= high:
            self._note(page, "gain", False, f"gain is {value:g}, expected {low:g} to {high:g}")
            return
        self.robot.record({"from": f"page {page.number}", "command": "gain", "value": value})
        self.robot.set_gain(value, lambda ok, text: self._note(page, f"gain {value:g}", ok, text))

    def _click(self, page: Page, click: Click) -> None:
        page.goal, page.goal_fault = None, ""
        try:
            controller, image = self.controller, self._images.get(click.image)
            if controller is None or controller.arm is None or not controller.takes_goal:
                raise ConfigurationError("this policy takes no goal")
            if image is None:
                raise ConfigurationError("the clicked image is too old; click again")
            height = float(self.goal[2]) if self.goal is not None else None
            point = goal_of_click(click.u, click.v, image, controller.arm, height)
            page.goal = ClickedGoal(next(self._numbers), point, image.stamp_ns)
        except ConfigurationError as error:
            page.goal_fault = str(error)

    def _send_goal(self, page: Page, request: SendGoal) -> None:
        goal, page.goal = page.goal, None
        if goal is None or goal.number != request.goal:
            page.goal_fault = "this goal is no longer shown; click again"
            return
        self.robot.send_goal(goal.point, goal.stamp_ns)
        x, y, z = (round(float(value), 4) for value in goal.point)
        self._note(page, "goal", True, f"({x:.3f}, {y:.3f}, {z:.3f}) m")
        self.robot.record({"from": f"page {page.number}", "command": "goal", "point": [x, y, z]})

    def _record(self, page: Page, command: str) -> None:
        recorder = self.recording.recorder_at(self.clock())
        self.robot.record({"from": f"page {page.number}", "command": command})
        if recorder is None:
            self._note(page, command, False, NO_RECORDER)
            return
        call = recorder.start if command == "record" else recorder.stop
        call(lambda ok, text: self._note(page, command, ok, text))

    def _label(self, page: Page, given: LabelBag) -> None:
        command = f"label {given.label.value}"
        self.robot.record(
            {"from": f"page {page.number}", "command": "label", **given.model_dump(mode="json", exclude={"type"})}
        )
        recorder = self.recording.recorder_at(self.clock())
        try:
            request = given.request()
        except ConfigurationError as error:
            self._note(page, command, False, str(error))
            return
        if recorder is None:
            self._note(page, command, False, NO_RECORDER)
            return
        recorder.label(request, lambda ok, text: self._note(page, command, ok, text))

    # --- what pages are shown --------------------------------------------------------------------------------------

    def next_image(self, page: Page) -> SeenImage | None:
        """Return the image to send to a page now, or None: one at a time, and always the newest."""
        image = self.current
        if image is None or page.in_flight is not None or image.number <= page.newest_sent:
            return None
        page.in_flight = page.newest_sent = image.number
        self._images[image.number] = image
        while len(self._images) > IMAGES:
            self._images.popitem(last=False)
        return image

    def status(self, page: Page) -> dict[str, Any]:
        """Return the status for a page."""
        now = self.clock()
        state, controller, holder = self.state, self.controller, self._holder()
        silent_s = 0.0 if self.heard_s is None else now - self.heard_s
        without = self.controller_missing
        if silent_s > SILENT_S:
            state, without = (
                None,
                (
                    f"The safety controller has been silent for {silent_s:.0f} s. Its last command ends at rest; "
                    "read its log and start the graph again."
                ),
            )
        words = [(code, in_words(code, state.detail)) for code in state.reasons] if state else []
        return {
            "type": "status",
            "now": round(1e3 * now),
            "state": state.state.value if state else None,
            "state_words": STATES[state.state] if state else without,
            "reasons": [{"code": code, "meaning": text.meaning, "remedy": text.remedy} for code, text in words],
            "enabled": state.enabled if state else False,
            "gain_applied": round(state.gain, 3) if state else 0.0,
            "checklist": [line.model_dump() for line in self.checklist.lines] if self.checklist else None,
            "controller": controller.shown() if controller else None,
            "page": page.number,
            "pages": len(self.pages),
            "operates": self.is_operator(page),
            "operator": holder.number if holder else None,
            "round_trip_ms": None if page.round_trip_ms is None else round(page.round_trip_ms),
            "stopping": not self._rule.allows,
            "image_silent_s": round(now - self.current.received_s, 1) if self.current else None,
            "goal": self._shown_goal(page),
            "goal_fault": page.goal_fault,
            "events": list(self._events),
            "recorder": self.recording.shown(now),
            **self._news(page),
        }

    def _news(self, page: Page) -> dict[str, Any]:
        """Return what a page has not been sent yet: the list of bags, and points of the plots."""
        news: dict[str, Any] = {}
        if page.listing is not self.recording.listing:
            page.listing = self.recording.listing
            news["bags"] = page.listing.model_dump(mode="json")
        page.sample, news["plots"] = self.plots.since(page.sample)
        return news

    def _shown_goal(self, page: Page) -> dict[str, Any] | None:
        goal = page.goal
        if goal is None or self.current is None:
            return None
        point = [round(float(value), 3) for value in goal.point]
        return {"goal": goal.number, "point": point, "pixel": self.current.pixel(goal.point)}

    def _event(self, text: str, ok: bool) -> None:
        self._events.append({"at": round(1e3 * time.time()), "text": text, "ok": ok})

    def _note(self, page: Page, command: str, ok: bool, text: str) -> None:
        """Show and record what became of a command."""
        self._event(
            f"page {page.number}: {command}: {text}" if ok else f"page {page.number}: {command} refused: {text}", ok
        )
        self.robot.record({"from": f"page {page.number}", "command": command, "ok": ok, "answer": text})
