"""Tests of the checklist on the real graph, with the twin instead of an arm."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


LIMIT_S = 60.0  # for anything to happen: an arm at its workspace's edge waits for the next episode to move again


class Rig:
    """The real arm's nodes before the twin, and a person beside it who calls services."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        from conftest import Process, TestNode
        from rclpy.context import Context

        from rlfp_ros.nodes import messages as m

        # The fixture's camera is a wide one: a room as wide as that.
        wide = (ROOT / "sim/scenes/twin_near.yaml").read_text().replace("deg: 44.0", "deg: 64.0")
        (folder / "wide.yaml").write_text(wide.replace("twin_near", "wide"))
        renamed = yaml.safe_load((ROOT / "config/arms/panda.yaml").read_text())
        renamed["name"] = "renamed"
        renamed["driver_joint_names"] = {name: name.replace("panda", "fr3") for name in renamed["joint_names"]}
        (folder / "renamed.yaml").write_text(yaml.safe_dump(renamed))
        self.folder = folder
        common: dict[str, Any] = {"bundle": bundle, "arm": folder / "renamed.yaml"}
        self.processes = [
            Process("arm_twin", common | {"room": folder / "wide.yaml", "clock_offset_s": 5.0}, {}, folder),
            Process("perception", {"bundle": bundle}, {}, folder),
            Process("policy", common, {}, folder),
            Process(
                "checklist",
                common
                | {
                    "extrinsics": "bundle",
                    "require_heartbeat": False,
                    "home_tolerance_rad": 3.0,
                    "camera_max_age_s": 4.0,
                    "joint_max_age_s": 0.7,
                },
                {},
                folder,
            ),
            Process(
                "residual_controller",
                common
                | {
                    "require_checklist": True,
                    "tick_on": "timer",
                    # The fault stops the arm here, not a busy machine.
                    "joint_state_max_age_s": 0.8,
                    "joint_state_timeout_s": 0.8,
                    "clock_jump_s": 5.0,
                    "percept_timeout_s": 1.0,
                    "residual_fade_s": 0.5,
                    "residual_timeout_s": 1.0,
                    "residual_max_age_s": 2.0,
                    # The fixture's policy is slow: what lags at all lags little.
                    "tracking_error_rad": 0.03,
                    "tracking_window_s": 0.3,
                },
                {},
                folder,
            ),
        ]
        self.context = Context()
        self.context.init()
        self.person = TestNode(self.context)
        self.clients: dict[str, Any] = {}
        self.states = self.person.listen(m.SAFETY_STATE)
        self.lists = self.person.listen(m.CHECKLIST)

    def call(self, service_type: Any, name: str, request: Any) -> Any:
        if name not in self.clients:
            self.clients[name] = self.person.node.create_client(service_type, name)
        client = self.clients[name]
        self.person.spin_until(client.service_is_ready, LIMIT_S, name)
        for _ in range(5):  # an answer is lost where the service has not discovered its client yet
            future = client.call_async(request)
            with contextlib.suppress(AssertionError):
                self.person.spin_until(future.done, 3.0, name)
                return future.result()
        raise AssertionError(f"{name} does not answer")

    def trigger(self, name: str) -> Any:
        from std_srvs.srv import Trigger

        return self.call(Trigger, f"residual_controller/{name}", Trigger.Request())

    def twin(self, **values: Any) -> None:
        """Set faults of the hardware."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        answer = self.call(SetParameters, "arm_twin/set_parameters", SetParameters.Request(parameters=parameters))
        assert all(result.successful for result in answer.results), answer

    def until(self, happened: Callable[[], Any], what: str) -> Any:
        """Ask now and then: a service that is called all the time keeps a busy machine busy."""

        def asked() -> Any:
            answer = happened()
            if not answer:
                self.person.spin_for(0.25)
            return answer

        return self.person.spin_until(asked, LIMIT_S, what)

    def refused(self, *words: str) -> str:
        """Wait until `enable` is refused with all of these words."""

        def refusal() -> str:
            message = str(self.trigger("enable").message)
            return message if all(word in message for word in words) else ""

        return str(self.until(refusal, f"a refusal with {words}"))

    def enable(self) -> None:
        """Until the policy moves the arm: an episode has begun, and the residual's gain has come up.

        On a busy machine the arm may stop for its own slowness before: then again.
        """
        before = len(self.states)

        def moves() -> bool:
            if any(self._is_moving(message) for message in self.states[before:]):
                return True
            state = json.loads(self.states[-1].data)["state"] if self.states else "DISABLED"
            if state == "STOPPED":
                self.trigger("reset")
            if state in ("STOPPED", "DISABLED"):
                self.trigger("enable")
            return False

        self.until(moves, "ACTIVE with gain 1")

    @staticmethod
    def _is_moving(message: Any) -> bool:
        state = json.loads(message.data)
        return bool(state["state"] == "ACTIVE" and state["gain"] == 1.0)

    def state(self, state: str, *reasons: str) -> None:
        def reached() -> bool:
            newest = json.loads(self.states[-1].data) if self.states else {}
            return newest.get("state") == state and (not reasons or bool(set(reasons) & set(newest["reasons"])))

        self.person.spin_until(reached, LIMIT_S, f"{state} {reasons}")

    def stopped_or_holding(self, wanted: str) -> dict[str, Any]:
        """The state after a fault: STOPPED for any reason, or HOLDING where that is wanted."""

        def newest() -> dict[str, Any] | None:
            state: dict[str, Any] = json.loads(self.states[-1].data) if self.states else {}
            return state if state.get("state") in ("STOPPED", wanted) else None

        found: dict[str, Any] = self.person.spin_until(newest, LIMIT_S, wanted)
        return found

    def said(self, node: str, words: str) -> None:
        """Wait for words in a node's log."""
        process = self.processes[["arm_twin", "perception", "policy", "checklist", "residual_controller"].index(node)]
        self.person.spin_until(lambda: words in process.output, LIMIT_S, words)

    def close(self) -> None:
        self.person.close()
        self.context.try_shutdown()
        for process in self.processes:
            process.popen.terminate()
        for process in self.processes:
            process.stop()


@pytest.fixture(scope="module")
def rig(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Rig(tiny_bundle, tmp_path_factory.mktemp("rig"))
    yield made
    made.close()


@pytest.mark.graph
def test_enable_is_refused_until_every_line_is_green_and_each_refusal_names_its_cause(rig: Rig) -> None:
    message = rig.refused("ahead of this machine's clock", "synchronise the machines")
    assert message.startswith("not enabled: ")
    assert "\n" not in message
    rig.twin(clock_offset_s=0.0, encoding="16UC1")
    rig.refused("encoding is '16UC1', expected one of rgb8")
    assert "encoding" in rig.trigger("step").message
    rig.twin(encoding="bgr8", joint_states_late_s=1.0)
    rig.refused("stamps on /joint_states are", "behind this machine")
    rig.twin(joint_states_late_s=0.0)
    rig.enable()
    rig.said("checklist", "checklist: all green")
    rig.trigger("disable")
    rig.state("DISABLED")


@pytest.mark.graph
@pytest.mark.parametrize(
    ("fault", "healthy", "state", "reasons"),
    [
        (
            {"joint_states_late_s": 1.0},
            {"joint_states_late_s": 0.0},
            "STOPPED",
            ("joint_state_old", "joint_state_stale"),
        ),
        ({"dropped_frames": 1.0}, {"dropped_frames": 0.0}, "HOLDING", ("percept_stale", "percept_old")),
        ({"stalled_joint": "panda_joint2"}, {"stalled_joint": ""}, "STOPPED", ("tracking_error", "joint_state_frozen")),
        ({"stiffness": 0.002}, {"stiffness": 1.0}, "STOPPED", ("tracking_error",)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_fault_of_the_hardware_stops_or_holds_the_arm(
    rig: Rig, fault: dict[str, Any], healthy: dict[str, Any], state: str, reasons: tuple[str, ...]
) -> None:
    rig.twin(clock_offset_s=0.0, encoding="rgb8")
    for _ in range(4):  # on a busy machine the arm may stop for its own slowness: then again
        rig.enable()
        rig.twin(**fault)
        newest = rig.stopped_or_holding(state)
        rig.twin(**healthy)
        if newest["state"] == "HOLDING":
            rig.state("ACTIVE")
            rig.trigger("disable")
        else:
            rig.until(lambda: rig.trigger("reset").success, "reset")
        rig.state("DISABLED")
        if newest["state"] == state and set(reasons) & set(newest["reasons"]):
            return
    raise AssertionError(f"expected {state} by {reasons}, found {newest}")


@pytest.mark.graph
def test_an_arm_whose_controller_is_not_active_stops_with_the_reason(rig: Rig) -> None:
    rig.twin(clock_offset_s=0.0, encoding="rgb8", controller_active=False)
    rig.until(lambda: rig.trigger("enable").success, "enable")
    rig.state("STOPPED", "tracking_error")
    topic = "/joint_trajectory_controller/joint_trajectory"
    rig.said("residual_controller", f"the arm did not move when it was told to: nothing carries out {topic}")
    rig.twin(controller_active=True)
    rig.until(lambda: rig.trigger("reset").success, "reset")
