"""Turns a wanted motion into a command that is inside every limit and contains its own stop.

Each tick makes one step and a complete stop after it, checks both as a whole, and sends them as one short trajectory.
If a check fails, the arm continues along the stop that was sent before: it was checked when it was sent, so limits stay
feasible forever. Limits apply relative to the last command, never to the measurement.

Layout of a command with tick time t: points at t + dt and t + 2 dt were promised by the two commands before, the
point at t + 3 dt is new, then the points of the stop. A command that comes up to two ticks late changes nothing: two
trajectories that share a piece agree on it to rounding whenever they arrive.

The steps are compiled (`steps.py`, `promise.py`, `limits.py`, `stop.py`, `checks.py`, `velocity.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.compiled import as_python
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.distances import Distances
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.safety import promise, steps
from rlfp_ros.control.safety.checks import Refusal
from rlfp_ros.control.safety.limits import find_limits, pack
from rlfp_ros.control.safety.motion import AHEAD, Located, Motion
from rlfp_ros.control.safety.velocity import INSIDE, VelocityProgramme
from rlfp_ros.control.trajectory import Trajectory

STALE = "the tool was located at another motion than the end; call locate() once per tick"


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

    The state is the motion that was promised: now, the next ticks, the stop that follows, and the ticks left of
    standing still after a start. Call `locate` once per tick: `joint_velocity` and `extend` take its result.
    """

    def __init__(self, arm: Arm, kinematics: Kinematics, settings: ControllerSettings) -> None:
        self.dt = 1.0 / settings.control_rate_hz
        self.distances = Distances.with_margins_of(settings, kinematics)
        joints, body = len(arm.joint_names), self.distances.body
        self.limits = find_limits(arm, settings, self.distances)
        sizes = joints, len(body.capsules), len(body.pairs)
        memory = np.zeros(promise.memory_size(*sizes))
        self._state = as_python(promise.state_in)(memory, *sizes)
        self._counters = np.zeros(promise.COUNTERS, np.int64)
        self._arrays = pack(self.limits), memory, self._counters
        self._programme = VelocityProgramme(self._state)
        self._lever = settings.rotation_length_m
        self._settle_ticks = round(settings.settle_s / self.dt)
        self._joints = joints
        self._located: Located | None = None
        self.start(np.array(arm.home))

    # --- the promised motion -----------------------------------------------------------------------------------

    def start(self, positions: np.ndarray, velocities: np.ndarray | None = None) -> None:
        """Begin at measured joints [J] rad; moving ones (velocities [J] rad/s given) come to rest along a stop."""
        now = self._state.points[0]
        now[0], now[1:] = positions, 0.0
        if velocities is not None:
            most = self.limits.joints.wanted_velocity
            now[1] = np.clip(velocities, -most, most)
        steps.start(*self._arrays, self._settle_ticks)

    def advance(self, ticks: int = 1) -> None:
        """Advance by whole ticks along the motion that was sent. During a missed tick the arm follows the sent stop."""
        steps.advance(*self._arrays, ticks)

    @property
    def now(self) -> Motion:
        """The motion commanded for the last tick's stamp."""
        return self._motion(0)

    @property
    def position(self) -> np.ndarray:
        """Positions [J] rad commanded for the last tick's stamp."""
        return self._state.points[0, 0].copy()

    @property
    def end(self) -> Motion:
        """The last promised motion, from which the next step begins."""
        return self._motion(int(self._counters[promise.COUNT]))

    def _motion(self, index: int) -> Motion:
        return Motion(self._state.points[index].copy(), bool(self._counters[promise.RESTS + index]))

    @property
    def resting(self) -> bool:
        """Whether the motion that was sent has come to rest."""
        return bool(self._counters[promise.RESTING])

    @property
    def counts(self) -> FilterCounts:
        """What the filter has decided so far."""
        counters = self._counters.tolist()
        names = zip(Refusal, counters[promise.REFUSED + 1 : promise.PAIRS], strict=True)
        return FilterCounts(
            steps=counters[promise.STEPS],
            braked=counters[promise.BRAKED],
            stop_followed=counters[promise.STOP_FOLLOWED],
            limited=counters[promise.LIMITED],
            unsolved=counters[promise.UNSOLVED],
            refused={refusal: count for refusal, count in names if count},
        )

    def diagnostics(self) -> dict[str, int | float]:
        """Return names and values for /diagnostics."""
        counts = self.counts
        values: dict[str, int | float] = {
            "steps": counts.steps,
            "steps_limited": counts.limited,
            "steps_braked": counts.braked,
            "steps_stop_followed": counts.stop_followed,
            "smallest_singular_value_m": self.smallest_singular_value(),
        }
        return values | {f"refused_{refusal}": count for refusal, count in sorted(counts.refused.items())}

    def smallest_singular_value(self) -> float:
        """Return that of the weighted Jacobian at the end of the promised motion, m."""
        weights = np.array([1.0, 1.0, 1.0, self._lever, self._lever, self._lever])[:, None]
        return float(np.linalg.svd(weights * self.locate().jacobian, compute_uv=False)[-1])

    def trajectory(self, stamp_ns: int) -> Trajectory:
        """Return the trajectory to send at `stamp_ns`, the time of `now`."""
        state, counters = self._state, self._counters
        count, left = int(counters[promise.COUNT]), int(counters[promise.STOP_LEFT])
        if counters[promise.RESTING]:
            time = self.dt * (int(counters[promise.SETTLING]) or AHEAD)
            return Trajectory(stamp_ns, np.array([time]), state.points[count : count + 1].copy())  # standing
        if count == AHEAD:
            points = state.points[1 : 1 + count + left].copy()
        else:
            points = np.concatenate((state.points[1 : 1 + count], state.points[promise.STOP : promise.STOP + left]))
        return Trajectory(stamp_ns, state.times[: count + left].copy(), points)

    # --- one tick ----------------------------------------------------------------------------------------------

    def locate(self) -> Located:
        """Locate the tool at `end`, from where the next step begins."""
        number, located = int(self._counters[promise.PROMISED]), self._located
        if located is None or located.number != number:
            steps.locate_end(*self._arrays)
            end, j = self._state.end.copy(), self._joints
            tool = 3 * j
            self._located = located = Located(
                number,
                end[:tool].reshape(3, j),
                end[tool : tool + 3],
                end[tool + 3 : tool + 12].reshape(3, 3),
                end[tool + 12 :].reshape(6, j),
            )
        return located

    def joint_velocity(
        self, here: Located, twist: np.ndarray, posture: np.ndarray, joints: np.ndarray | None = None
    ) -> np.ndarray:
        """Return joint velocities inside all limits, as near as they allow to a wanted motion.

        Parameters
        ----------
        here
            What `locate` returned for this tick.
        twist
            [6] m/s and rad/s, of the tool in the base frame.
        posture
            [J] rad/s; only the part that does not move the tool is used.
        joints
            [J] rad/s, added as they are.

        Returns
        -------
        np.ndarray
            [J] rad/s. If the wanted motion is not finite, neither are they, and `extend` stops.
        """
        if here.number != self._counters[promise.PROMISED]:
            raise ValueError(STALE)
        state, arrays, count = self._state, self._arrays, self._joints
        state.asked[:6] = twist
        state.asked[6 : 6 + count] = posture
        state.asked[6 + count :] = 0.0 if joints is None else joints
        if steps.propose_velocity(*arrays) != INSIDE:
            steps.limit_velocity(*arrays, self._programme.solve(int(self._counters[promise.PAIRS])))
        return state.velocity.copy()

    def follow_stop(self) -> None:
        """Promise one more tick along the stop that was sent."""
        steps.follow_stop(*self._arrays)

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
        if here.number != self._counters[promise.PROMISED]:
            raise ValueError(STALE)
        self._state.velocity[:] = wanted
        return steps.extend(*self._arrays)
