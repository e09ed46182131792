"""Turns a wanted motion into a command that is inside every limit and contains its own stop.

Each tick makes one step and a complete stop after it, checks both as a whole, and sends them as one short trajectory.
If a check fails, the arm continues along the stop that was sent before: it was checked when it was sent, so limits stay
feasible forever. Limits apply relative to the last command, never to the measurement.

Layout of a command with tick time t: points at t + dt and t + 2 dt were promised by the two commands before, the
point at t + 3 dt is new, then the points of the stop. A command that comes up to two ticks late changes nothing: two
trajectories that share a piece agree on it to rounding whenever they arrive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.kinematics import Distances, Kinematics
from rlfp_ros.control.safety.checks import Checks, Refusal
from rlfp_ros.control.safety.limits import checked_limits, plan_step, step_limits
from rlfp_ros.control.safety.motion import AHEAD, Located, Motion, largest
from rlfp_ros.control.safety.stop import NO_STOP, Stop, follow, plan_stop, stop_shapes
from rlfp_ros.control.safety.velocity import VelocityProgramme, programme_limits
from rlfp_ros.control.trajectory import Trajectory

STALE = "the tool was located at another motion than the end; call locate() once per tick"
SETTLED_RAD_S = 2e-3  # rad/s; below this speed, if no motion is wanted, the sent stop brings the arm to exact rest


@dataclass
class FilterCounts:
    """Counts of the filter's decisions since its construction.

    Attributes
    ----------
    steps
        Ticks.
    braked
        The wanted step failed its check, a braking one passed.
    stop_followed
        No step passed, or the wanted motion was not finite: the arm followed the stop sent before.
    limited
        The quadratic programme had to change the wanted motion.
    unsolved
        The quadratic programme found no answer: the arm brakes.
    refused
        Failed checks by name.
    """

    steps: int = 0
    braked: int = 0
    stop_followed: int = 0
    limited: int = 0
    unsolved: int = 0
    refused: dict[Refusal, int] = field(default_factory=dict)


class SafetyFilter:
    """Keeps the commanded motion of one arm. Deterministic; uses no clock. SI units, `arm.joint_names` order.

    The state is the motion that was promised: `now`, `ahead`, the stop that follows, and the ticks left of standing
    still after a start. Results within a tick are passed as values: the result of `locate` is an argument of
    `joint_velocity` and `extend`.

    Attributes
    ----------
    now
        The motion commanded for the last tick's stamp.
    ahead
        The motions promised for the ticks after it.
    """

    def __init__(self, arm: Arm, kinematics: Kinematics, settings: ControllerSettings) -> None:
        self.dt = 1.0 / settings.control_rate_hz
        self.counts = FilterCounts()
        self.smallest_singular_value = 1.0
        self.distances = Distances(
            kinematics,
            settings.collision_margin_m,
            settings.table_margin_m,
            settings.collision_influence_m,
            settings.obstacle_margin_m,
        )
        self._step = step_limits(arm, settings)
        self._shapes = stop_shapes(arm, settings)
        self._checks = Checks(checked_limits(arm, settings), self._shapes, kinematics, self.distances)
        self._programme = VelocityProgramme(programme_limits(arm, settings), self.distances)
        self._settle_ticks = round(settings.settle_s / self.dt)
        self._zeros = np.zeros(len(arm.joint_names))
        self._zeros.setflags(write=False)
        self._located: Located | None = None  # the tool after the last step that passed; the next step begins there
        self.start(np.array(arm.home))

    # --- the promised motion -----------------------------------------------------------------------------------

    def start(self, positions: np.ndarray, velocities: np.ndarray | None = None) -> None:
        """Begin at measured joints [J] rad; moving ones (velocities [J] rad/s given) come to rest along a stop."""
        velocity = self._zeros
        if velocities is not None:
            most = self._programme.limits.velocity
            velocity = np.clip(velocities, -most, most)
        rows = np.array((positions, velocity, self._zeros), dtype=float)
        self.now = now = Motion(rows, not velocity.any())
        plan = None if now.at_rest else plan_stop(self._shapes, rows)
        self._stop: Stop = plan.stop if plan is not None else NO_STOP
        self.ahead = [now]
        self._promise_stop()
        self._promise_stop()
        self.ahead = self.ahead[1:]  # promised for one and two ticks from now
        # The arm's controller holds its last command, not the measured position. This is time for a gentle transition.
        self._settling = self._settle_ticks if now.at_rest else 0

    def advance(self, ticks: int = 1) -> None:
        """Advance by whole ticks along the motion that was sent. During a missed tick the arm follows the sent stop."""
        for _ in range(ticks):
            while len(self.ahead) < AHEAD:
                self._promise_stop()
            self.now = self.ahead.pop(0)
        self._settling = max(0, self._settling - ticks)

    @property
    def end(self) -> Motion:
        """The last promised motion, from which the next step begins."""
        return self.ahead[-1]

    @property
    def resting(self) -> bool:
        """Whether the motion that was sent has come to rest."""
        return self.now.at_rest and self.ahead[0].at_rest and self.ahead[-1].at_rest and not self._stop.ticks

    def _promise_stop(self) -> None:
        """Promise one more tick along the stop."""
        motion, self._stop = follow(self._stop, self.ahead[-1], self._step.to_step)
        self.ahead.append(motion)

    def diagnostics(self) -> dict[str, int | float]:
        """Return names and values for /diagnostics."""
        counts = self.counts
        values: dict[str, int | float] = {
            "steps": counts.steps,
            "steps_limited": counts.limited,
            "steps_braked": counts.braked,
            "steps_stop_followed": counts.stop_followed,
            "smallest_singular_value_m": self.smallest_singular_value,
        }
        return values | {f"refused_{refusal}": count for refusal, count in sorted(counts.refused.items())}

    def trajectory(self, stamp_ns: int) -> Trajectory:
        """Return the trajectory to send at `stamp_ns`, the time of `now`."""
        joints, stop = len(self._zeros), self._stop
        if self.resting:
            time = self.dt * (self._settling or AHEAD)
            return Trajectory(stamp_ns, np.array([time]), self.end.rows.reshape(1, 3, joints).copy())  # standing
        rows = [motion.rows for motion in self.ahead]
        times = stop.times
        if times is None or len(rows) != AHEAD:
            ticks = (*range(1, len(rows) + 1), *(len(rows) + np.cumsum(stop.ticks, dtype=int)).tolist())
            times = self.dt * np.array(ticks)
        if stop.ticks:
            rows.append(stop.points.reshape(-1, joints))
        return Trajectory(stamp_ns, times, np.concatenate(rows).reshape(-1, 3, joints))

    # --- one tick ----------------------------------------------------------------------------------------------

    def locate(self) -> Located:
        """Locate the tool at `end`, from where the next step begins."""
        rows = self.end.rows
        if self._located is None or self._located.rows is not rows:
            self._located = self._checks.locate(rows)
        return self._located

    def joint_velocity(
        self, here: Located, twist: np.ndarray, posture: np.ndarray, joints: np.ndarray | None = None
    ) -> np.ndarray:
        """Return joint velocities [J] rad/s inside all limits, as near as they allow to a wanted motion.

        The parameters are those of `VelocityProgramme.solve`. A wanted motion that is not finite gives velocities that
        are not, for which `extend` stops.
        """
        if here.rows is not self.ahead[-1].rows:
            raise ValueError(STALE)
        result = self._programme.solve(here, twist, posture, joints)
        self.smallest_singular_value = result.smallest_singular_value
        self.counts.limited += result.limited
        self.counts.unsolved += result.unsolved
        return result.velocity

    def follow_stop(self) -> None:
        """Promise one more tick along the stop that was sent."""
        self.counts.steps += 1
        self._promise_stop()

    def extend(self, here: Located, wanted: np.ndarray) -> bool:
        """Promise one more step towards joint velocities `wanted` [J] rad/s.

        If no step passes its checks, or `wanted` is not finite, the arm follows the stop that was sent, to rest.

        Parameters
        ----------
        here
            What `locate` returned for this tick.
        wanted
            The joint velocities. Large ones are approached as far as the limits allow.

        Returns
        -------
        bool
            Whether the motion is the wanted one, as far as the limits allow, or a braking towards it.
        """
        if here.rows is not self.ahead[-1].rows:
            raise ValueError(STALE)
        self.counts.steps += 1
        if self._settling:
            self._promise_stop()
            return True
        values = wanted.tolist()  # for a few numbers, Python is faster than numpy
        if not all(map(math.isfinite, values)):
            self._count_refusal(Refusal.NOT_FINITE)
        elif any(values):
            if self._try_step(here, wanted):
                return True
            if not self._settled and self._try_step(here, self._zeros):
                self.counts.braked += 1
                return True
        elif self._settled:
            self._promise_stop()
            return True
        elif self._try_step(here, wanted):
            return True
        self.counts.stop_followed += 1
        self._promise_stop()
        return False

    @property
    def _settled(self) -> bool:
        """Whether the arm is slow enough for the sent stop to bring it to exact rest; braking only approaches rest."""
        return self.end.at_rest or largest(self.end.velocity) < SETTLED_RAD_S

    def _try_step(self, here: Located, wanted: np.ndarray) -> bool:
        step = plan_step(self._step, here.rows, wanted)
        stop = plan_stop(self._shapes, step)
        refusal, located = self._checks.step(here, step, stop)
        if stop is None or refusal is not None:
            self._count_refusal(refusal or Refusal.NOT_FINITE)
            return False
        self.ahead.append(Motion(step, False))
        self._stop, self._located = stop.stop, located
        return True

    def _count_refusal(self, refusal: Refusal) -> None:
        self.counts.refused[refusal] = self.counts.refused.get(refusal, 0) + 1
