#!/usr/bin/env python3
"""Measures the residual controller: time per tick, hostile inputs, and time from a fault to a stopped arm.

    ./rlfp bench safety [--ticks N] [--timed N] [--arms panda ...] [--stops N] [--json FILE] [--progress FILE]

The judge uses only the arm's published numbers (`config/arms/*.yaml`), kinematics directly from Pinocchio and its own
distances. It samples the setpoints of the model of joint_trajectory_controller while commands arrive up to two ticks
late. `test/test_safety_filter.py` does the same in short runs.

`--ticks` is the length of the hostile run for each arm (1 ms a tick; 10^6 take 20 minutes an arm). With `--progress
FILE` an interrupted run continues where it was. `stops` go through the real graph (`benchmarks/fault_matrix.py`,
--stops times each, 0 leaves them out); `stops_in_process` compares the controller alone with Ruckig's time-optimal
stop.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import resource
import sys
import time
import traceback
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # seven joints: a second thread only waits
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pinocchio as pin
import ruckig

import rlfp_ros
from rlfp_ros.cli.parsing import add_result, amount, natural, parse_benchmark, positive
from rlfp_ros.contract import ActionContract, BaseControllerContract
from rlfp_ros.control.arm import Arm, JointState, load_arm
from rlfp_ros.control.residual_controller import ControllerSettings, ResidualController, State
from rlfp_ros.control.safety.takeover import Jog
from rlfp_ros.control.trajectory import Residual, Trajectory
from rlfp_ros.control.trajectory_controller import TrajectoryController
from rlfp_ros.evaluation.results import provenance, read_json, write_json
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.urdf import read_urdf

RATE = 240
ARMS = ("panda", "iiwa", "xarm6", "so101", "ur5e", "fr3")  # if no others are given
UPDATES = 4  # of the arm's controller for each of our ticks: about its usual 1 kHz
SCALE = np.array((0.5, 0.5, 0.5, 2.0, 2.0, 2.0))  # of the residual, m/s and rad/s: as fast as the tool may be
STANDING_RAD_S = 1e-6  # rounding of what the arm is told at rest
HOSTILE = (np.nan, np.inf, -np.inf, 1e300, 5e-324, 50.0)


def contract_of(arm: Arm, in_joint_space: bool = False) -> SimpleNamespace:
    """A policy that may turn and push the tool (or turn the joints) every way, on top of `hold`."""
    fingers = 1 if arm.gripper else 0
    components: tuple[str, ...] = ("vx", "vy", "vz", "wx", "wy", "wz")
    units: tuple[Any, ...] = ("m/s",) * 3 + ("rad/s",) * 3
    scale = SCALE
    if in_joint_space:
        components, scale = arm.joint_names, np.array(arm.limits.velocity)
        units = ("rad/s",) * len(components)
    action = ActionContract(
        kind="joint_velocity" if in_joint_space else "twist",
        components=components + ("gripper",) * fingers,
        scale=(*scale.tolist(), *((0.04,) * fingers)),
        units=units + ("m",) * fingers,
        rate_hz=30.0,
    )
    return SimpleNamespace(action=action, base_controller=BaseControllerContract(name="hold"))


def stamp(tick: int) -> int:
    """ns of a tick."""
    return 7_000_000_000 + tick * 1_000_000_000 // RATE


def segment_distance(p1: np.ndarray, q1: np.ndarray, p2: np.ndarray, q2: np.ndarray) -> float:
    """Distance between two line segments, points included (Ericson, Real-Time Collision Detection, 5.1.9)."""
    d1, d2, r = q1 - p1, q2 - p2, p1 - p2
    a, e, f, c, b = d1 @ d1, d2 @ d2, d2 @ r, d1 @ r, d1 @ d2
    denominator = a * e - b * b
    s = np.clip((b * f - c * e) / denominator, 0, 1) if denominator > 1e-12 else 0.0
    t = np.clip((b * s + f) / e, 0, 1) if e > 0 else 0.0
    s = np.clip((b * t - c) / a, 0, 1) if a > 0 else 0.0
    return float(np.linalg.norm(p1 + d1 * s - p2 - d2 * t))


class Judge:
    """Compares every sample that the arm is commanded with the arm's published numbers."""

    def __init__(self, arm: Arm) -> None:
        self.arm = arm
        robot = read_urdf(arm)
        for joint in robot.findall("joint"):  # Pinocchio cannot lock joints if one has the same name as a link
            if joint.get("name") not in arm.joint_names:
                joint.set("name", f"joint {joint.get('name')}")
        whole = pin.buildModelFromXML(ElementTree.tostring(robot, encoding="unicode"))
        others = [whole.getJointId(name) for name in list(whole.names)[1:] if name not in arm.joint_names]
        self.model = pin.buildReducedModel(whole, others, pin.neutral(whole))
        # Of each of the arm's joints in Pinocchio's vectors.
        self.places = [self.model.joints[self.model.getJointId(name)].idx_q for name in arm.joint_names]
        self.data = self.model.createData()
        self.tool = self.model.getFrameId(arm.tool_frame, pin.FrameType.BODY)
        base = self.model.frames[self.model.getFrameId(arm.base_frame, pin.FrameType.BODY)]
        assert base.parentJoint == 0, "the base must not move"
        self.T_base_root = base.placement.inverse()
        self.limits = {
            name: np.array(getattr(arm.limits, name)) for name in ("lower", "upper", "velocity", "acceleration", "jerk")
        }
        self.before: tuple[int, np.ndarray] | None = None
        self.samples = self.moving = 0

    def in_model(self, values: np.ndarray) -> np.ndarray:
        """Return values [J] of the arm's joints in Pinocchio's order."""
        ordered = np.zeros(len(values))
        ordered[self.places] = values
        return ordered

    def see(self, samples: list[tuple[int, np.ndarray]]) -> None:
        """(time ns, [3, J] position, velocity, acceleration), in order; raises AssertionError."""
        limits, tool = self.limits, self.arm.tool_limits
        times, rows = np.array([time for time, _ in samples]), np.array([row for _, row in samples])
        position, velocity, acceleration = rows.transpose(1, 0, 2)
        self.samples += len(samples)
        self.moving += int((np.abs(velocity) > 0.02).any(axis=1).sum())
        assert np.isfinite(rows).all(), "not finite"
        assert (position >= limits["lower"]).all()
        assert (position <= limits["upper"]).all()
        assert (np.abs(velocity) <= limits["velocity"]).all()
        self.see_speed_near_ends(position, velocity)
        assert (np.abs(acceleration) <= limits["acceleration"] + 1e-6).all(), acceleration / limits["acceleration"]
        if self.before is not None:
            times, rows = np.append(self.before[0], times), np.vstack((self.before[1][None], rows))
        elapsed = 1e-9 * np.diff(times)[:, None]
        moved = np.diff(rows[:, 0], axis=0)
        expected = 0.5 * elapsed * (rows[1:, 1] + rows[:-1, 1])
        assert (np.abs(moved - expected) <= elapsed**3 * limits["jerk"].max() / 12 + 1e-9).all()
        jerk = np.abs(np.diff(rows[:, 2], axis=0)) / elapsed
        assert (jerk <= limits["jerk"] + 1.0).all(), jerk / limits["jerk"]
        self.before = int(times[-1]), rows[-1]
        places, twists = [], []
        for joints, speeds in zip(position, velocity, strict=True):
            jacobian = pin.computeFrameJacobian(
                self.model, self.data, self.in_model(joints), self.tool, pin.LOCAL_WORLD_ALIGNED
            )
            places.append(self.T_base_root.act(self.data.oMf[self.tool].translation))
            twists.append(jacobian @ self.in_model(speeds))
        assert (places >= np.array(tool.lower) - 1e-4).all(), places
        assert (places <= np.array(tool.upper) + 1e-4).all(), places
        linear, angular = np.linalg.norm(np.array(twists).reshape(-1, 2, 3), axis=2).max(axis=0)
        assert linear <= tool.speed, f"tool speed {linear:.3f} m/s"
        assert angular <= tool.angular_speed, f"tool turns at {angular:.3f} rad/s"

    def see_speed_near_ends(self, position: np.ndarray, velocity: np.ndarray) -> None:
        """Where the arm has `velocity_near_ends`: (speed + offset)^2 is at most 2 deceleration distance."""
        near = self.arm.limits.velocity_near_ends
        if near is None:
            return
        going_up = velocity > 0
        distance = np.where(going_up, np.array(near.upper) - position, position - np.array(near.lower))
        squared = (np.abs(velocity) + np.array(near.offset)) ** 2
        allowed = squared <= 2 * np.array(near.deceleration) * distance
        assert (allowed | (np.abs(velocity) < 1e-6)).all(), f"{velocity} rad/s at {position} rad"

    def see_distances(self, position: np.ndarray) -> None:
        """Capsules with three or more joints between them stay apart, above the table and off the obstacles."""
        model, data = self.model, self.data
        pin.forwardKinematics(model, data, self.in_model(position))
        placed = []
        for capsule in self.arm.capsules:
            index = model.getFrameId(capsule.link, pin.FrameType.BODY)
            frame = model.frames[index]
            pose = self.T_base_root * data.oMi[frame.parentJoint] * frame.placement
            ends = [pose.rotation @ np.array(end) + pose.translation for end in (capsule.start, capsule.end)]
            placed.append((frame.parentJoint, ends, capsule))
        for index, (joint, (start, end), capsule) in enumerate(placed):
            if joint >= 3 and capsule.table:
                lowest = min(start[2], end[2]) - capsule.radius
                assert self.arm.table_height is None or lowest > self.arm.table_height, (
                    f"{capsule.link} is in the table"
                )
            for other_joint, (other_start, other_end), other in placed[index + 1 :]:
                if abs(joint - other_joint) >= 3:
                    distance = segment_distance(start, end, other_start, other_end)
                    assert distance > capsule.radius + other.radius, f"{capsule.link} touches {other.link}"
            for obstacle in self.arm.obstacles if joint else ():
                box = np.linalg.inv(obstacle.pose.matrix())
                points = [share * start + (1 - share) * end for share in np.linspace(0, 1, 30)]
                within = np.abs(np.array(points) @ box[:3, :3].T + box[:3, 3]) - 0.5 * np.array(obstacle.size)
                assert np.linalg.norm(np.maximum(within, 0), axis=1).min() > capsule.radius, obstacle.name


class Line:
    """Commands on their way to the arm: each may be up to two ticks late, none overtakes another."""

    def __init__(self, arm: Arm, positions: np.ndarray, random: np.random.Generator) -> None:
        self.controller = TrajectoryController(len(arm.joint_names))
        self.controller.reset(positions)
        self.random = random
        self.phase = random.uniform(0, 1)  # of JTC's updates against our ticks
        self.on_the_way: list[tuple[int, Trajectory]] = []

    def send(self, trajectory: Trajectory) -> None:
        """Arrives within two ticks."""
        arrival = trajectory.stamp_ns + int(self.random.uniform(0, 2e9 / RATE)) * int(self.random.integers(0, 2))
        if self.on_the_way:
            arrival = max(arrival, self.on_the_way[-1][0])
        self.on_the_way.append((arrival, trajectory))

    def samples(self, start_ns: int, end_ns: int, count: int) -> list[tuple[int, np.ndarray]]:
        """What the arm is told at `count` times after `start_ns` up to `end_ns`."""
        result = []
        for index in range(1, count + 1):
            time_ns = start_ns + int((end_ns - start_ns) * (index - self.phase) / count)
            while self.on_the_way and self.on_the_way[0][0] <= time_ns:
                _, trajectory = self.on_the_way.pop(0)
                self.controller.accept(trajectory, time_ns)  # JTC looks for messages in its own update
            result.append((time_ns, np.array(self.controller.sample(time_ns))))
        return result


def hostile_twist(random: np.random.Generator, phase: int, kind: int, scale: np.ndarray = SCALE) -> np.ndarray:
    """Random, extremal, switching at the worst moment, absurd or not a number; -1: any of these."""
    if kind < 0:
        kind = int(random.integers(0, 6))
    axes = len(scale)
    if kind == 0:
        return random.uniform(-1, 1, axes) * scale
    if kind == 1:
        return np.sign(random.uniform(-1, 1, axes)) * scale
    if kind == 2:
        ends = np.zeros(axes)
        ends[[0, -1]] = 1 if phase % 2 else -1
        return ends * scale
    if kind == 3:
        twist = random.uniform(-1, 1, axes) * scale
        twist[random.integers(0, axes)] = random.choice(HOSTILE)
        return twist
    if kind == 4:  # the tool down, or one joint after the other to its end
        down = np.zeros(axes)
        down[2 if axes == 6 else phase % axes] = -1
        return down * scale
    return scale * random.choice([-1, 1], axes)


LEASE = "operator"


class HostilePerson:
    """Heartbeats and jogs of a page: too fast, not numbers, old, of another page, at the worst moment."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.jogs = False
        self.linear, self.angular = np.zeros(3), np.zeros(3)

    def act(self, controller: ResidualController, step: int, now: int) -> None:
        """Do what comes in this tick."""
        random = self.random
        if step % 24 == 0 and random.random() < 0.95:
            controller.on_heartbeat(now, LEASE)
        if random.random() < 0.01:
            self.jogs = not self.jogs
        if step % 12 or not self.jogs:
            if random.random() < 0.005:
                controller.enable()  # gives the arm back
            return
        if random.random() < 0.3:
            self.linear, self.angular = np.sign(random.uniform(-1, 1, (2, 3)))
        linear = self.linear.copy()
        if random.random() < 0.1:
            linear[random.integers(0, 3)] = random.choice(HOSTILE)
        stamp = now - int(random.choice([0, 0, 0, 5 * 10**9, -(10**12)]))
        content = {
            "stamp": stamp,
            "lease": LEASE if random.random() < 0.9 else "another",
            "linear": linear.tolist(),
            "angular": self.angular.tolist(),
        }
        try:
            controller.on_jog(Jog.from_json(json.dumps(content)), now)
        except ConfigurationError:
            controller.on_jog(None, now)


def run_hostile(arm: Arm, seed: int, ticks: int, faults: bool = True) -> tuple[Judge, ResidualController]:
    """A hostile run through controller and delayed line, judged sample by sample."""
    random = np.random.default_rng(seed)
    in_joint_space = seed % 4 >= 2
    contract = contract_of(arm, in_joint_space)
    controller = ResidualController(arm, contract, ControllerSettings(start_enabled=True))
    judge = Judge(arm)
    start = np.array(arm.home) + random.uniform(-0.1, 0.1, len(arm.joint_names))
    line = Line(arm, start, random)
    scale = controller.residual_scale
    twist = np.zeros(len(scale))
    held = int(random.integers(1, 40))
    kind = int(random.integers(-3, 6))  # two runs of three keep to one kind: bang-bang swings up at its own rhythm
    person = HostilePerson(seed)
    tick, seen = 0, 1
    for step in range(ticks):
        tick += 1 if not faults or random.random() > 0.01 else int(random.integers(2, 30))  # ticks may be missed
        now = stamp(tick)
        if tick > seen:  # the arm continues by itself
            judge.see(line.samples(stamp(seen), now, UPDATES * (tick - seen)))
        seen = tick + 1
        position, velocity, _ = line.controller.sample(now)
        noise = random.normal(0, 1e-5, (2, len(position)))
        measured = JointState(now, position + noise[0], velocity + noise[1], np.zeros(len(position)), 0.04)
        if faults and random.random() < 0.002:
            measured = JointState(now, measured.positions * np.nan, measured.velocities, measured.efforts)
        if faults and random.random() < 0.001:  # joints that change places
            positions, velocities = random.permutation(np.array((measured.positions, velocity)), axis=1)
            measured = JointState(now, positions, velocities, 0 * velocity)
        controller.on_joint_state(measured, now)
        if step % held == 0:
            twist = hostile_twist(random, step // held, kind, scale)
        if step % 8 == 0:
            age = int(random.integers(0, 60_000_000))
            if faults and random.random() < 0.05:
                age = int(random.choice([-(10**12), -60_000_000, 10**9]))  # of the future, or of long ago
            admitted = controller.on_residual(Residual(now - age, twist, float(random.uniform(-1, 1))), now)
            assert np.isfinite(admitted).all()
        if faults and step % 8 == 0 and random.random() < 0.9:  # otherwise one bad percept would hold it for good
            controller.on_object_pose(np.array((0.5, 0.0, 0.1)), None, now - 1, now)
            controller.on_domain_shift(0.0, now, now)
        if faults and random.random() < 0.003:
            controller.on_object_pose(random.choice(HOSTILE, 3), None, now, now)
        if faults and random.random() < 0.003:
            controller.on_domain_shift(float(random.choice([0.0, 1.0, np.nan])), now, now)
        if faults and random.random() < 0.003:
            controller.on_residual(Residual(now + 1, np.zeros(int(random.integers(0, 9))), None), now)
        if faults and random.random() < 0.003:
            controller.on_goal(random.choice(HOSTILE, 3))
            controller.set_residual_gain(float(random.choice([0.0, 1.0, 7.0])))
        if faults and random.random() < 0.001:
            controller.estop()
        if faults:
            person.act(controller, step, now)
        if controller.state is State.STOPPED and random.random() < 0.02:
            controller.reset()
            controller.enable()
        command = controller.tick(now, now)
        if command.trajectory is not None:
            line.send(command.trajectory)
        samples = line.samples(now, stamp(tick + 1), UPDATES)
        judge.see(samples)
        if step % 20 == 0:
            judge.see_distances(samples[-1][1][0])
    assert controller.internal_errors == 0, controller.last_error
    return judge, controller


# --- time of a tick ----------------------------------------------------------------------------------------------


COLLECT_TICKS = RATE
SLOW_S = 1e-3  # a tick that takes longer is attributed to its causes
USAGE = {
    "ru_nivcsw": "involuntary switch",
    "ru_nvcsw": "voluntary switch",
    "ru_minflt": "page fault",
    "ru_majflt": "page fault from disk",
}


class SlowTicks:
    """Counts ticks longer than `SLOW_S` by what happened in them.

    Attributes
    ----------
    causes
        Ticks by cause; a tick with several causes counts for each. Those of `none` are our own code's.
    """

    def __init__(self) -> None:
        self.causes = dict.fromkeys(("ticks", *USAGE.values(), "collection", "none"), 0)
        self._collections = 0
        self._begun = self._counts()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch garbage collections, and freeze and switch off the collector as the node's process does."""
        gc.collect()
        gc.freeze()
        gc.disable()
        gc.callbacks.append(self._on_collection)
        try:
            yield
        finally:
            gc.callbacks.remove(self._on_collection)
            gc.enable()
            gc.unfreeze()

    def _on_collection(self, phase: str, _: dict[str, int]) -> None:
        self._collections += phase == "start"

    def _counts(self) -> dict[str, int]:
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        return {cause: getattr(usage, name) for name, cause in USAGE.items()} | {"collection": self._collections}

    def begin(self) -> None:
        """Note that a tick begins."""
        self._begun = self._counts()

    def end(self, took_s: float) -> None:
        """Note that a tick has ended."""
        if took_s <= SLOW_S:
            return
        self.causes["ticks"] += 1
        causes = [cause for cause, count in self._counts().items() if count > self._begun[cause]]
        for cause in causes or ["none"]:
            self.causes[cause] += 1


def measure_ticks(arm: Arm, ticks: int) -> tuple[dict[str, float], dict[str, float], dict[str, int]]:
    """Microseconds of `ResidualController.tick` while the arm moves about, limits active or not, those of them that its
    safety filter takes, and the causes of slow ticks."""
    random = np.random.default_rng(0)
    controller = ResidualController(arm, contract_of(arm), ControllerSettings(start_enabled=True))
    line = TrajectoryController(len(arm.joint_names))
    line.reset(np.array(arm.home))
    twist, times, filter_times = np.zeros(6), np.zeros(ticks), np.zeros(ticks)

    def timed(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            began = time.perf_counter()
            found = step(*given)
            filter_times[tick] += time.perf_counter() - began
            return found

        return run

    for name in ("locate", "extend"):  # what a tick asks of the filter
        setattr(controller.filter, name, timed(getattr(controller.filter, name)))
    slow = SlowTicks()
    with slow.watching():
        for tick in range(ticks):
            now = stamp(tick)
            position, velocity, _ = line.sample(now)
            controller.on_joint_state(JointState(now, position, velocity, np.zeros(len(position)), 0.04), now)
            if tick % 8 == 0:
                if tick % 80 == 0:
                    twist = random.uniform(-0.2, 0.2, 6)
                controller.on_residual(Residual(now - 33_000_000, twist, 0.02), now)
            slow.begin()
            started = time.perf_counter()
            command = controller.tick(now, now)
            times[tick] = time.perf_counter() - started
            slow.end(times[tick])
            if command.trajectory is not None:
                line.accept(command.trajectory, now)
            if tick % COLLECT_TICKS == 0:
                gc.collect()  # between two ticks, as in the node
    return summary(times), summary(filter_times), slow.causes


def summary(times: np.ndarray) -> dict[str, float]:
    """Quantiles in us of times in s."""
    p50, p99, p999, p9999 = np.percentile(1e6 * times, [50, 99, 99.9, 99.99])
    return {"p50": p50, "p99": p99, "p999": p999, "p9999": p9999, "max": 1e6 * times.max(), "n": len(times)}


# --- faults to rest ----------------------------------------------------------------------------------------------

Fault = Callable[[ResidualController, int], None]
FAULTS: dict[str, Fault | None] = {
    "estop": lambda controller, now: controller.estop() and None,
    "disable": lambda controller, now: controller.disable() and None,
    "joint_states_stale": None,
    "joint_states_not_finite": lambda controller, now: controller.on_joint_state(
        JointState(now, *np.full((3, len(controller.arm.joint_names)), np.nan)), now
    ),
    "policy_stale": None,
    "policy_not_finite": None,
    "domain_shift": None,
    "sender_killed": None,
}


def measure_stop(arm: Arm, fault: str, seed: int) -> tuple[float, float, bool, bool, float]:
    """One fault at a random phase of motion at full residual: (ms to rest or to zero gain, ms of Ruckig's optimal stop
    from there, latched, resumed, ms from the fault's end to the first residual that acts)."""
    random = np.random.default_rng(seed)
    controller = ResidualController(arm, contract_of(arm), ControllerSettings(start_enabled=True))
    line = TrajectoryController(len(arm.joint_names))
    line.reset(np.array(arm.home))
    begin = int(random.integers(150, 260))
    twist = np.concatenate((random.uniform(-0.2, 0.2, 3), np.zeros(3)))
    act = FAULTS[fault]
    rest = resumed = None
    optimal, end = 0.0, begin + 240
    policy = fault.startswith("policy")
    for tick in range(begin + 480):
        now = stamp(tick)
        faulty = begin <= tick < end
        position, velocity, acceleration = line.sample(now)
        if tick == begin:
            optimal = ruckig_stop(arm, velocity, acceleration)
            if act is not None:
                act(controller, now)
        if not (faulty and fault == "joint_states_stale"):
            controller.on_joint_state(JointState(now, position, velocity, np.zeros(len(position)), 0.04), now)
        if tick % 8 == 0:
            if not (faulty and fault == "policy_stale"):
                asked = np.full(6, np.nan) if faulty and fault == "policy_not_finite" else twist
                controller.on_residual(Residual(now - 33_000_000, asked, 0.02), now)
            controller.on_domain_shift(1.0 if faulty and fault == "domain_shift" else 0.0, now, now)
        if not (faulty and fault == "sender_killed"):
            command = controller.tick(now, now)
            if command.trajectory is not None:
                line.accept(command.trajectory, now)
        if (
            tick > begin
            and rest is None
            and (controller.gain == 0.0 if policy else np.abs(velocity).max() < STANDING_RAD_S)
        ):
            rest = tick - begin
        if tick >= end and resumed is None and controller.gain > 0.0 and controller.state is State.ACTIVE:
            resumed = tick - end
    latched = controller.state in (State.STOPPED, State.DISABLED)
    per_tick = 1e3 / RATE
    return (
        per_tick * (rest if rest is not None else np.nan),
        1e3 * optimal,
        latched,
        resumed is not None,
        per_tick * (resumed if resumed is not None else np.nan),
    )


def ruckig_stop(arm: Arm, velocity: np.ndarray, acceleration: np.ndarray) -> float:
    """Seconds of the time-optimal stop within the same acceleration and jerk, every joint for itself."""
    joints, settings = len(arm.joint_names), ControllerSettings()
    problem, answer = ruckig.InputParameter(joints), ruckig.Trajectory(joints)
    problem.control_interface = ruckig.ControlInterface.Velocity
    problem.current_position, problem.current_velocity = [0.0] * joints, velocity.tolist()
    problem.current_acceleration, problem.target_velocity = acceleration.tolist(), [0.0] * joints
    problem.max_velocity = list(arm.limits.velocity)
    problem.max_acceleration = [settings.stop_acceleration_scale * value for value in arm.limits.acceleration]
    problem.max_jerk = [settings.stop_jerk_scale * value for value in arm.limits.jerk]
    ruckig.Ruckig(joints).calculate(problem, answer)
    return float(answer.duration)


# --- jitter of the real node ---------------------------------------------------------------------------------------


def measure_jitter(seconds: float, busy: int = 0) -> dict[str, float]:
    """Milliseconds between the node's commands, less their period: the real process at 240 Hz, over shared memory.

    The arm answers every command with the joints it was told, so the node never stops for want of them. `busy`
    processes that only compute run beside it.
    """
    from benchmarks.fault_matrix import busy_processes, quiet_graph

    settings = {"tick_on": "timer", "start_enabled": True}
    with quiet_graph(["residual_controller"], settings) as graph, busy_processes(busy):
        published = graph.answer_commands(seconds)
        if len(published) < RATE:
            raise ConfigurationError(
                f"only {len(published)} commands came in {seconds:g} s: {graph.state['reasons']}; quieten the machine"
            )
    periods: np.ndarray = 1e-6 * np.diff(np.array(published[RATE // 4 :], dtype=np.int64))  # the start is not counted
    off = np.abs(periods - 1e3 / RATE)
    p50, p99, p999 = np.percentile(off, [50, 99, 99.9])
    spread = {"p50": p50, "p99": p99, "p999": p999, "max": float(off.max())}
    return spread | {"n": len(off), "load": os.getloadavg()[0]}


# --- the hostile run ------------------------------------------------------------------------------------------------

CHUNK = 2_000  # ticks from one seed


def run_adversarial(name: str, ticks: int, known: dict[str, float], save: Callable[[], None]) -> None:
    """Hostile chunks until `known` (ticks, violations, nonfinite, moving) has `ticks`; `save` after each."""
    arm = load_arm(name)
    known.update({key: known.get(key, 0) for key in ("ticks", "violations", "nonfinite", "moving")})
    began, at_start = time.monotonic(), known["ticks"]
    while known["ticks"] < ticks:
        seed = round(known["ticks"] / CHUNK)
        length = min(CHUNK, ticks - int(known["ticks"]))
        try:
            judge, _ = run_hostile(arm, seed, length, faults=seed % 2 == 1)
            known["moving"] += judge.moving / judge.samples * length
        except AssertionError as error:
            known["violations"] += 1
            known["nonfinite"] += "finite" in str(error)
            line = traceback.extract_tb(error.__traceback__)[-1].line
            print(f"  {name}: seed {seed}: {(str(error).splitlines() or [''])[0]} ({line})")
        known["ticks"] += length
        save()
        if seed % 25 == 24:
            rate = (known["ticks"] - at_start) / (time.monotonic() - began)
            print(
                f"  {name}: {known['ticks']} of {ticks} ticks, {known['violations']} violations, "
                f"{(ticks - known['ticks']) / rate:.0f} s to go",
                flush=True,
            )


def measure_stops_in_process(arm: Arm, times: int) -> dict[str, dict[str, object]]:
    """Every fault of FAULTS `times` times at random phases, beside Ruckig's time-optimal stop; prints a table."""
    stops: dict[str, dict[str, object]] = {}
    print(f"{'fault':26s} n   p50 ms  max ms  Ruckig's stop p50 ms  latched  resumed after ms")
    for fault in FAULTS:
        rows = np.array([measure_stop(arm, fault, seed) for seed in range(times)])
        resumed = bool(rows[:, 3].all())
        after = float(np.max(rows[:, 4])) if resumed else None
        p50, longest, optimal = float(np.median(rows[:, 0])), float(np.max(rows[:, 0])), float(np.median(rows[:, 1]))
        latched = bool(rows[:, 2].all())
        stops[fault] = {
            "n": len(rows),
            "p50_ms": p50,
            "max_ms": longest,
            "ruckig_p50_ms": optimal,
            "latched": latched,
            "resumed": resumed,
            "resumed_max_ms": after,
        }
        print(
            f"{fault:26s} {len(rows):<3d} {p50:6.0f}  {longest:6.0f}  {optimal:20.0f}  "
            f"{'yes' if latched else 'no':7s}  {'-' if after is None else f'{after:.0f}'}"
        )
    return stops


def installed_arms() -> list[str]:
    """The arms of `ARMS` whose model is installed; prints which are not."""
    found = []
    for name in ARMS:
        try:
            load_arm(name).urdf_path  # noqa: B018
            found.append(name)
        except ConfigurationError as error:
            print(f"{name} is left out: {error}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print tables and write JSON; 1 where a limit was violated."""
    parser = argparse.ArgumentParser(prog="rlfp bench safety", description=__doc__.splitlines()[0])
    parser.add_argument("--ticks", type=positive, default=20_000, help="ticks of the hostile run, for each arm")
    parser.add_argument("--arms", nargs="+", default=[])
    parser.add_argument("--stops", type=natural, default=5, help="injections of each fault into the real graph")
    parser.add_argument("--timed", type=positive, default=20_000, help="ticks whose time is taken")
    parser.add_argument("--jitter", type=amount, default=20.0, help="seconds of the real node; 0: not measured")
    add_result(parser, "--progress", help="continue with the hostile run that this file tells of")
    add_result(parser, "--json")
    options = parse_benchmark(parser, arguments)
    options.arms = options.arms or installed_arms()
    arms = [load_arm(name) for name in options.arms]
    adversarial: dict[str, dict[str, float]] = read_json(options.progress) if options.progress else {}
    words = sys.argv[1:] if arguments is None else arguments
    result: dict[str, object] = provenance("./rlfp bench safety", words) | {
        "version": rlfp_ros.__version__,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }

    ticks, filters, slow = measure_ticks(arms[0], options.timed)
    result["tick_us"], result["filter_us"], result["slow_ticks"] = ticks, filters, slow
    for what, figures in (("tick of the whole controller", ticks), ("the filter in it", filters)):
        print(f"{what}, us: " + "  ".join(f"{name} {value:.0f}" for name, value in figures.items()))
    print("ticks longer than 1 ms, by what interrupted them: " + "  ".join(f"{k} {v}" for k, v in slow.items()))
    if options.jitter:
        for name, busy in (("jitter_ms", 0), ("jitter_loaded_ms", os.cpu_count() or 1)):
            result[name] = jitter = measure_jitter(options.jitter, busy)
            print(f"period of the node at 240 Hz beside {busy} busy processes, ms off: ", end="")
            print("  ".join(f"{k} {v:.3g}" for k, v in jitter.items()))

    result["adversarial"] = adversarial

    def save() -> None:
        if options.progress:
            write_json(options.progress, adversarial)

    for name in options.arms:
        run_adversarial(name, options.ticks, adversarial.setdefault(name, {}), save)
        seen = adversarial[name]
        print(
            f"hostile inputs, {name}: {seen['ticks']} ticks, moving in {seen['moving'] / seen['ticks']:.0%} of them, "
            f"{seen['violations']} violations, {seen['nonfinite']} not finite"
        )

    result["stops_in_process"] = measure_stops_in_process(arms[0], 20)
    if options.stops:
        from benchmarks.fault_matrix import measure_faults, table

        result["stops"] = stops = measure_faults(options.stops)
        print(table(stops))
    if options.json:
        write_json(options.json, result)
    return int(any(seen["violations"] for seen in adversarial.values()))


if __name__ == "__main__":
    sys.exit(main())
