#!/usr/bin/env python3
"""Injects faults into the real graph while the arm moves, and measures the time to rest, latching and resumption.

    .venv/bin/python benchmarks/fault_matrix.py [--times 20] [--faults estop ...] [--clean SECONDS] [--json FILE]

With --json, every trial is written as it ends, and a run that was interrupted continues where it was: give the same
file.

Every node is its own process on real DDS over shared memory, as `sim.launch.py` starts them, with the settings that an
arm gets (`real_arm.launch.py`): the controller ticks on its own timer, starts DISABLED and needs a heartbeat. This
script forwards the drivers' topics (joint states, images, residuals, /clock) unchanged until a fault is due. Then it
withholds, repeats or corrupts messages, or kills a process.

A fault comes at a random phase of the motion, while the residual acts. The measurement uses the commands on DDS, run
through the model of joint_trajectory_controller: from the fault to the last time at which a joint is commanded to move.
`carried` is the longest stop in a command after the fault: the arm's deceleration time from its state at that time.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import rlfp_ros
from rlfp_ros.cli.parsing import add_result, amount, natural, parse_benchmark, positive
from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.control.trajectory_controller import TrajectoryController
from rlfp_ros.evaluation.results import provenance, read_json, write_json
from rlfp_ros.graph import dds
from rlfp_ros.graph.description import OnExit, Respawn
from rlfp_ros.graph.domains import reserved_domain
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.graph.runner import Runner
from rlfp_ros.graph.sim import SIM
from rlfp_ros.recording import decode

BUNDLE = os.environ.get("RLFP_BUNDLE", "reach_panda")  # of arm panda and task reach
AS_ON_AN_ARM = {
    "tick_on": "timer",
    "start_enabled": False,
    "require_heartbeat": True,
    "heartbeat_timeout_s": 0.125,  # 0.5 by default, for networks that stall; here it beats every 20 ms
    "episode_reset_clears_stop": False,
}
START_S = 40.0  # for all processes, on a busy machine
FAULT_S = 1.0  # duration of a fault
AFTER_S = 0.8  # longest wait for the first residual after it; a latched stop is visible at once
LATCHED_S = 0.2
GONE_NS = 100_000_000  # after this time messages are not those of a killed node; a new node takes longer to start
STANDING_RAD_S = 1e-3
ACTING_M_S = 0.05  # admitted residual above which it acts
MOVING_RAD_S = 0.1  # a fault is only injected above this joint speed
WITHIN_MS = 150.0  # the promise: rest within this time plus the arm's deceleration; residual gain 0 within this time
RESUMED_WITHIN_MS = 300.0
BUSY = "while True: pass"


# Reasons that the controller reports if the machine is too slow for simulator and script. A trial in which one occurs
# by itself is repeated, and counted as disturbed.
STARVED = ("joint_state_stale", "joint_state_old", "clock_jump", "heartbeat_lost", "percept_stale", "percept_old")
DARK = STARVED[4:]
ATTEMPTS = 3  # per trial
CLEAN_S = 60.0  # length of a run without faults


@dataclass(frozen=True)
class Fault:
    """A fault, and the promised reaction."""

    name: str
    description: str
    policy: bool = False  # of the policy: the residual ends, the base controller continues
    latches: bool = True
    kills: str = ""  # the node that gets a SIGKILL
    stops_by: tuple[str, ...] = ()  # reasons that it may stop by


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("policy_killed", "the policy's process gets a SIGKILL", True, False, "policy"),
        Fault("nan_action", "every residual has a NaN", True, False),
        Fault("action_jump", "residuals swing between 1.4 and -1.4 of their scale", True, False),
        Fault("future_stamp", "residuals are stamped 10 s ahead", True, False),
        Fault("camera_frozen", "the camera repeats one image with its stamp", False, False, stops_by=DARK),
        Fault("camera_dead", "no image comes", False, False, stops_by=DARK),
        Fault("joint_states_stale", "no joint state comes", stops_by=("joint_state_stale", "joint_state_old")),
        Fault("clock_frozen", "/clock stands still", stops_by=STARVED[:3]),
        Fault("controller_killed", "the safety node itself gets a SIGKILL", kills="residual_controller"),
        Fault("simulator_killed", "arm, camera and clock die together", kills="simulator", stops_by=STARVED[:3] + DARK),
        Fault("estop", "true on safety/estop"),
        Fault("heartbeat_lost", "operator/heartbeat falls silent", stops_by=("heartbeat_lost",)),
        Fault("estop_under_load", "true on safety/estop, with a busy process for each core beside it"),
    )
}


@dataclass
class Heard:
    """The observed messages. Times are ns of the system's clock."""

    commands: list[tuple[int, bytes]] = field(default_factory=list)  # (published, serialised)
    states: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    applied: list[tuple[int, float]] = field(default_factory=list)  # (published, largest component admitted)
    residuals: list[int] = field(default_factory=list)  # times at which a valid residual was forwarded


class Harness:
    """Forwards the drivers' topics to the graph, and acts as the operator."""

    def __init__(self, runner: Runner) -> None:
        import rclpy
        from geometry_msgs.msg import TwistStamped
        from rclpy.context import Context
        from rclpy.node import Node
        from std_msgs.msg import Bool, Header
        from std_srvs.srv import Trigger

        from rlfp_ros.nodes import messages as m
        from rlfp_ros.nodes.executor import NodeExecutor

        self._m, self._Trigger, self._Bool, self._Header = m, Trigger, Bool, Header
        self.runner, self.heard = runner, Heard()
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = node = Node("fault_matrix", context=self.context)
        self.fault = ""
        self.heartbeat = True
        self.phase, self.episode = "", -1
        self._image: bytes | None = None
        self._swing = 1.0
        self._publishers = {
            topic.name: node.create_publisher(topic.type, topic.name, topic.qos)
            for topic in (m.JOINT_STATES, m.IMAGE, m.CLOCK, m.RESIDUAL, m.ESTOP, m.HEARTBEAT)
        }
        for topic, relay in (
            (m.JOINT_STATES, self._relay(m.JOINT_STATES.name, "joint_states_stale")),
            (m.IMAGE, self._on_image),
            (m.CLOCK, self._relay(m.CLOCK.name, "clock_frozen")),
        ):
            node.create_subscription(topic.type, driver(topic.name), relay, topic.qos, raw=True)
        node.create_subscription(TwistStamped, driver(m.RESIDUAL.name), self._on_residual, m.EVENTS)
        node.create_subscription(m.ARM_COMMAND.type, m.ARM_COMMAND.name, self._on_command, m.EVENTS, raw=True)
        node.create_subscription(m.SAFETY_STATE.type, m.SAFETY_STATE.name, self._on_state, m.qos(50, latched=True))
        node.create_subscription(TwistStamped, m.RESIDUAL_APPLIED.name, self._on_applied, m.EVENTS)
        node.create_subscription(m.EPISODE.type, m.EPISODE.name, self._on_episode, m.EPISODES)
        node.create_timer(0.02, self._beat)
        self._clients = {
            name: node.create_client(Trigger, name)
            for name in ("residual_controller/reset", "residual_controller/enable", "simulator/reset")
        }
        self.executor = NodeExecutor(node)

    def close(self) -> None:
        """Leave ROS."""
        import rclpy

        self.executor.close()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)

    # --- topics --------------------------------------------------------------------------------------------------

    def _relay(self, name: str, broken_by: str) -> Callable[[bytes], None]:
        publisher = self._publishers[name]

        def relay(data: bytes) -> None:
            if self.fault != broken_by:
                publisher.publish(data)

        return relay

    def _on_image(self, data: bytes) -> None:
        if self.fault == "camera_dead":
            return
        if self.fault != "camera_frozen" or self._image is None:
            self._image = data
        self._publishers[self._m.IMAGE.name].publish(self._image)

    def _on_residual(self, message: Any) -> None:
        twist = message.twist
        if self.fault == "nan_action":
            twist.linear.y = float("nan")
        elif self.fault == "action_jump":
            self._swing = -self._swing
            twist.linear.x, twist.linear.y, twist.linear.z = 0.35 * self._swing, 0.0, 0.0
        elif self.fault == "future_stamp":
            message.header.stamp.sec += 10
        else:
            self.heard.residuals.append(time.time_ns())
        self._publishers[self._m.RESIDUAL.name].publish(message)

    def _on_command(self, data: bytes, info: dict[str, int]) -> None:
        self.heard.commands.append((info["source_timestamp"], data))

    def _on_state(self, message: Any, info: dict[str, int]) -> None:
        self.heard.states.append((info["source_timestamp"], json.loads(message.data)))

    def _on_applied(self, message: Any, info: dict[str, int]) -> None:
        twist = decode.twist_from_message(message, "panda_link0")
        self.heard.applied.append((info["source_timestamp"], float(np.abs(twist).max())))

    def _on_episode(self, message: Any) -> None:
        episode = decode.episode_from_message(message)
        self.phase, self.episode = episode.phase.value, episode.id

    def _beat(self) -> None:
        if self.heartbeat:
            self._publishers[self._m.HEARTBEAT.name].publish(self._Header())

    # --- what the operator does ----------------------------------------------------------------------------------

    def spin(self, seconds: float) -> None:
        """Forward messages for `seconds`."""
        self.until(lambda: False, seconds, "")

    def until(self, happened: Callable[[], object], seconds: float = START_S, what: str = "it did not happen") -> None:
        """Hand messages on until something is so; RuntimeError after `seconds` (none where `what` is empty)."""
        end = time.monotonic() + seconds
        while not happened():
            left = end - time.monotonic()
            if left <= 0:
                if what:
                    raise RuntimeError(f"{what} within {seconds:g} s; state: {self.state}")
                return
            if self.runner.poll() is not None:
                raise RuntimeError(f"the graph ended: {self.runner.failure}")
            self.executor.spin_once(min(left, 0.05))

    @property
    def state(self) -> dict[str, Any]:
        """The newest safety/state."""
        return self.heard.states[-1][1] if self.heard.states else {"state": "", "reasons": [], "gain": 0.0}

    def call(self, name: str) -> bool:
        """Call a Trigger service; return False if it is refused."""
        client = self._clients[name]
        self.until(client.service_is_ready, what=f"service {name} was not there")
        future = client.call_async(self._Trigger.Request())
        self.until(future.done, 5.0, "")
        return bool(future.done() and future.result().success)

    def estop(self) -> None:
        """Press the button."""
        self._publishers[self._m.ESTOP.name].publish(self._Bool(data=True))

    def enable(self) -> None:
        """Release a latched stop and enable."""

        def enabled() -> bool:
            return self.call("residual_controller/reset") and self.call("residual_controller/enable")

        self.until(enabled, what="the controller was not enabled")

    def new_episode(self) -> bool:
        """Begin an episode, and wait until the policy moves the arm; return False if it does not."""
        before = self.episode
        self.call("simulator/reset")
        self.until(lambda: self.phase == "running" and self.episode != before, what="no episode began")
        self.heard = Heard(states=self.heard.states[-1:])
        self.until(lambda: self.moving or self.state["state"] == "STOPPED", 3.0, "")
        return self.moving

    @property
    def moving(self) -> bool:
        """Return whether the residual acts and the newest command moves a joint."""
        from rclpy.serialization import deserialize_message

        heard = self.heard
        if not heard.commands or not heard.applied or self.phase != "running" or self.state["state"] != "ACTIVE":
            return False
        if heard.applied[-1][1] < ACTING_M_S or time.time_ns() - heard.applied[-1][0] > 60_000_000:
            return False
        message = deserialize_message(self.heard.commands[-1][1], self._m.ARM_COMMAND.type)
        return bool(message.points) and float(np.abs(message.points[0].velocities).max()) > MOVING_RAD_S

    def acting_since(self, since: int) -> list[int]:
        """Return the times at which a residual above zero was admitted, ns."""
        return [at for at, largest in self.heard.applied if at >= since and largest > 0.0]

    def _more_commands_than(self, count: int) -> bool:
        return len(self.heard.commands) > count

    def answer_commands(self, seconds: float) -> list[int]:
        """Simulate an arm that follows its commands exactly; return the time of each command, ns."""
        m, arm = self._m, load_arm("panda")
        from rclpy.serialization import deserialize_message

        from rlfp_ros.control.arm import JointState

        positions, end = np.array(arm.home), time.monotonic() + START_S
        publisher, answered = self._publishers[m.JOINT_STATES.name], 0
        while time.monotonic() < end:
            if len(self.heard.commands) > answered:
                end = end if answered else time.monotonic() + seconds
                answered = len(self.heard.commands)
                message = deserialize_message(self.heard.commands[-1][1], m.ARM_COMMAND.type)
                positions = np.array(message.points[0].positions)
            still = np.zeros_like(positions)
            publisher.publish(m.joint_state_message(JointState(time.time_ns(), positions, still, still, 0.08), arm))
            self.until(partial(self._more_commands_than, len(self.heard.commands)), 0.02, "")
        return [published for published, _ in self.heard.commands]


def driver(name: str) -> str:
    """The topic on which a message leaves its sender."""
    return "driver/" + name.lstrip("/")


@contextlib.contextmanager
def quiet_graph(names: list[str], controller: dict[str, Any], relayed: bool = False) -> Iterator[Harness]:
    """Nodes of sim.launch.py in a domain of their own, with `controller`'s parameters for the safety node."""
    respawn = Respawn(attempts=1000, delay_s=FAULT_S, factor=1.0)
    with contextlib.ExitStack() as stack:
        domain = stack.enter_context(reserved_domain())
        arguments = {"transport": "local", "domain_id": str(domain), "use_sim_time": relayed}
        resolved = resolve(SIM, arguments | {"bundle": BUNDLE})
        sent = {"simulator": ("joint_states", "camera/image_raw", "/clock"), "policy": ("policy/residual",)}
        processes = tuple(
            dataclasses.replace(
                process,
                parameters=process.parameters | (controller if process.name == "residual_controller" else {}),
                remappings={name: driver(name) for name in sent.get(process.name, ())} if relayed else {},
                on_exit=OnExit.CONTINUE,
                respawn=respawn,
            )
            for process in resolved.processes
            if process.name in names
        )
        kept = dict(os.environ)
        stack.callback(os.environ.update, kept)  # the last to be called back comes first
        stack.callback(os.environ.clear)
        os.environ.update(dds.environment("local", str(domain)))  # before DDS starts here
        runner = stack.enter_context(
            Runner(dataclasses.replace(resolved, processes=processes), console="quiet", handle_signals=False)
        )
        harness = Harness(runner)
        stack.callback(harness.close)
        yield harness


NODES = ["simulator", "perception", "policy", "residual_controller"]


# --- one fault -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """One injection. Times in ms; NaN if it did not happen."""

    stopped: float  # to the end of all motion that the arm is told, or (policy) to a residual gain of 0
    carried: float  # the longest stop that a command carried from the fault on
    travel_mm: float  # of the tool, from the fault to rest
    speed: float  # of the tool at the fault, m/s
    latched: bool
    resumed: float  # from the first sound message (or the fault's end) to the first residual that acts
    commands_after: int  # sent in the last 0.3 s of the fault
    reasons: tuple[str, ...]  # in safety/state, from the fault on


def inject(harness: Harness, fault: Fault, random: np.random.Generator) -> Trial:
    """One fault at a random phase of a new episode."""
    beside = contextlib.ExitStack()
    try:
        for _ in range(20):
            harness.enable()
            if not harness.new_episode():
                continue
            harness.spin(float(random.uniform(0.02, 0.4)))
            if harness.moving and fault.name == "estop_under_load":
                beside.enter_context(busy_processes(os.cpu_count() or 1))
                harness.spin(0.1)
            if harness.moving:
                break
            beside.close()
        else:
            raise RuntimeError(f"no motion to stop; state: {harness.state}")
        harness.heard = Heard(states=harness.heard.states[-1:], commands=harness.heard.commands)
        began = time.time_ns()
        if fault.kills:
            os.kill(harness.runner.pids()[fault.kills], signal.SIGKILL)
        elif fault.name.startswith("estop"):
            harness.estop()
        harness.heartbeat = fault.name != "heartbeat_lost"
        harness.fault = fault.name
        harness.spin(FAULT_S)
        cleared = time.time_ns()
        harness.fault, harness.heartbeat = "", True
        if fault.kills:  # the node is restarted
            if fault.kills == "policy":
                count = len(harness.heard.residuals)
                harness.until(lambda: len(harness.heard.residuals) > count, what="the policy did not come back")
                cleared = harness.heard.residuals[count]
            else:
                node = fault.kills
                harness.until(lambda: node in harness.runner.pids(), what=f"{node} did not come back")
                if node == "residual_controller":
                    harness.until(
                        lambda: any(at > began + GONE_NS for at, _ in harness.heard.states), what="no safety/state came"
                    )
                else:
                    harness.until(lambda: harness.phase == "running", what="no episode began")
        if fault.latches:
            harness.spin(LATCHED_S)
        else:
            harness.until(lambda: harness.acting_since(cleared), AFTER_S, "")
    finally:
        beside.close()
        harness.fault, harness.heartbeat = "", True
    return judge(harness, fault, began, cleared)


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Run `count` processes that only compute while the block runs."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def judge(harness: Harness, fault: Fault, began: int, cleared: int) -> Trial:
    """Compute the figures of a trial from the observed messages."""
    from rclpy.serialization import deserialize_message

    m, arm, heard = harness._m, load_arm("panda"), harness.heard
    line, kinematics = TrajectoryController(len(arm.joint_names)), Kinematics(arm)
    # The arm's controller plays a command from the moment it comes: its stamps are of a clock that may stand still.
    commands = []
    for published, data in heard.commands:
        message = deserialize_message(data, m.ARM_COMMAND.type)
        if message.points:
            trajectory = decode.trajectory_from_message(message, arm.joint_names)
            commands.append((published, dataclasses.replace(trajectory, stamp_ns=published)))
    moving_until, places, speed = began, [], 0.0
    step, following = 1_000_000, iter([*commands, (1 << 62, None)])
    coming: tuple[int, Trajectory | None] = next(following)
    for now in range(began - 100 * step, cleared, step):
        while coming[0] <= now:
            if coming[1] is not None:
                line.accept(coming[1], coming[0])
            coming = next(following)
        position, velocity, _ = line.sample(now)
        if abs(now - began) < step:
            speed = float(np.linalg.norm((kinematics.jacobian(position) @ velocity)[:3]))
        if now >= began:
            places.append(position)
            if np.abs(velocity).max() > STANDING_RAD_S:
                moving_until = now
    rest = (moving_until - began) * 1e-6
    last = max((published for published, _ in commands if published <= began), default=began)
    carried = max((t.times[-1] for published, t in commands if last <= published <= moving_until), default=0.0)
    ends = [kinematics.tool_position(place) for place in (places[0], places[-1])]
    if moving_until >= cleared - 2 * step:
        rest = float("nan")
    without = [at for at, state in heard.states if at >= began and state["gain"] == 0.0]
    acting = harness.acting_since(cleared)
    return Trial(
        stopped=(without[0] - began) * 1e-6 if fault.policy and without else float("nan") if fault.policy else rest,
        carried=1e3 * carried,
        travel_mm=1e3 * float(np.linalg.norm(ends[1] - ends[0])),
        speed=speed,
        latched=harness.state["state"] in ("STOPPED", "DISABLED"),
        resumed=(acting[0] - cleared) * 1e-6 if acting else float("nan"),
        reasons=tuple(dict.fromkeys(r for at, state in heard.states if at >= began for r in state["reasons"])),
        commands_after=sum(cleared - 300_000_000 < published < cleared for published, _ in commands),
    )


# --- all of them -----------------------------------------------------------------------------------------------------


def measure_faults(
    times: int,
    names: list[str] | None = None,
    seed: int = 0,
    clean_s: float = 0.0,
    known: dict[str, Any] | None = None,
    save: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """Inject every fault `times` times, after `clean_s` seconds without faults (key `clean`).

    `known` holds earlier measurements ("trials" of each fault, "clean") and gets the new ones; `save` is called after
    each trial.
    """
    known = {} if known is None else known
    trials: dict[str, list[dict[str, Any]]] = known.setdefault("trials", {})
    clean: dict[str, Any] = known.setdefault(
        "clean", {"seconds": 0.0, "false_stops": 0, "false_holds": 0, "reasons": []}
    )
    result: dict[str, dict[str, Any]] = {}
    with quiet_graph(NODES, AS_ON_AN_ARM, relayed=True) as harness:
        harness.until(lambda: harness.phase == "running", what="no episode began")
        while clean["seconds"] < clean_s:
            more = run_clean(harness, min(CLEAN_S, clean_s - clean["seconds"]))
            clean |= {name: clean[name] + more[name] for name in ("seconds", "false_stops", "false_holds")}
            clean["reasons"] = sorted({*clean["reasons"], *more["reasons"]})
            save()
        if clean["seconds"]:
            result["clean"] = clean
        for name in names or list(FAULTS):
            fault, made = FAULTS[name], trials.setdefault(name, [])
            while sum(not trial["disturbed"] for trial in made) < times:
                random = np.random.default_rng((seed, list(FAULTS).index(name), len(made)))
                trial = inject(harness, fault, random)
                starved = bool(set(trial.reasons) & set(STARVED) - set(fault.stops_by))
                disturbed = starved and sum(trial["disturbed"] for trial in made) < (ATTEMPTS - 1) * times
                made.append(dataclasses.asdict(trial) | {"disturbed": disturbed})
                save()
            counted = [
                Trial(**{k: v for k, v in trial.items() if k != "disturbed"})
                for trial in made
                if not trial["disturbed"]
            ]
            result[name] = row = summary(fault, counted) | {"disturbed": len(made) - len(counted)}
            print(f"  {name}: p50 {row['p50_ms']} ms, max {row['max_ms']} ms, met: {row['met']}", end="; ")
            print(", ".join(row["reasons"]), flush=True)
    return result


def summary(fault: Fault, trials: list[Trial]) -> dict[str, Any]:
    """Return one row of the table. `met`: the promise of docs/explanation/safety.md held in every trial."""
    figures = [f.name for f in dataclasses.fields(Trial) if f.name != "reasons"]
    rows = {name: np.array([getattr(t, name) for t in trials], dtype=float) for name in figures}
    stopped, resumed = rows["stopped"], rows["resumed"]
    limit = WITHIN_MS if fault.policy else WITHIN_MS + rows["carried"]
    met = bool((stopped <= limit).all()) and all(trial.latched == fault.latches for trial in trials)
    if fault.policy:
        met = met and bool((rows["commands_after"] > 0).all())  # the base controller continues
    if not fault.latches:
        met = met and bool((resumed <= RESUMED_WITHIN_MS).all())
    return {
        "n": len(trials),
        "p50_ms": _number(np.median(stopped)),
        "max_ms": _number(stopped.max()),
        "carried_max_ms": _number(rows["carried"].max()),
        "travel_max_mm": _number(rows["travel_mm"].max()),
        "speed_p50_m_s": round(float(np.median(rows["speed"])), 3),
        "latched": all(trial.latched for trial in trials),
        "resumed": bool(np.isfinite(resumed).all()),
        "resumed_max_ms": _number(resumed.max()),
        "reasons": sorted({reason for trial in trials for reason in trial.reasons}),
        "met": met,
    }


def _number(value: float) -> float | None:
    return round(float(value), 1) if np.isfinite(value) else None


def run_clean(harness: Harness, seconds: float) -> dict[str, Any]:
    """Play episodes without a fault; count how often the controller left ACTIVE or reduced the gain without reason."""
    for _ in range(ATTEMPTS * 5):  # a machine that still starts processes may stop it
        harness.enable()
        harness.until(lambda: harness.state["state"] in ("ACTIVE", "STOPPED"), 5.0, "")
        if harness.state["state"] == "ACTIVE":
            break
    harness.heard = Heard()
    harness.spin(seconds)
    states = [state for _, state in harness.heard.states]
    reasons = sorted({r for s in states for r in s["reasons"] if not r.startswith("waiting")})
    return {
        "seconds": seconds,
        "false_stops": sum(state["state"] == "STOPPED" for state in states),
        "false_holds": sum(
            state["state"] == "HOLDING" and state["reasons"] != ["waiting_for_joint_state"] for state in states
        ),
        "reasons": reasons,
    }


def table(result: dict[str, dict[str, Any]]) -> str:
    """Format the rows of `measure_faults` as a Markdown table."""
    lines = [
        "| fault | n | stopped, p50 ms | max ms | its own deceleration, max ms | tool travel, max mm | latches | "
        "resumes | resumes after, max ms | as promised | disturbed |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    show = lambda value: "-" if value is None else f"{value:.0f}"  # noqa: E731
    word = lambda value: "yes" if value else "no"  # noqa: E731
    for name, row in result.items():
        if name not in FAULTS:
            continue
        lines.append(
            f"| `{name}`: {FAULTS[name].description} | {row['n']} | {show(row['p50_ms'])} | {show(row['max_ms'])} | "
            f"{show(row['carried_max_ms'])} | {show(row['travel_max_mm'])} | {word(row['latched'])} | "
            f"{word(row['resumed'])} | {show(row['resumed_max_ms'])} | {word(row['met'])} | "
            f"{row['disturbed']} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the table and write JSON; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="rlfp bench fault_matrix", description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=positive, default=20, help="injections of each fault")
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), help="these alone")
    parser.add_argument("--clean", type=amount, default=0.0, metavar="SECONDS", help="run first without a fault")
    parser.add_argument("--seed", type=natural, default=0)
    add_result(parser, "--json")
    options = parse_benchmark(parser, arguments)
    words = sys.argv[1:] if arguments is None else arguments
    document: dict[str, Any] = provenance("benchmarks/fault_matrix.py", words) | {
        "version": rlfp_ros.__version__,
        "machine": {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]},
    }
    if options.json:
        document = read_json(options.json) or document

    def save() -> None:
        if options.json:
            write_json(options.json, document)

    known = document.setdefault("known", {})
    result = measure_faults(options.times, options.faults, options.seed, options.clean, known, save)
    document["stops"] = result
    save()
    print(table(result))
    if "clean" in result:
        print(f"clean running: {result['clean']}")
    return int(not all(row.get("met", True) for row in result.values()))


if __name__ == "__main__":
    sys.exit(main())
