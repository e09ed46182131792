"""A model of ros2_control's joint_trajectory_controller (JTC), Jazzy, with `interpolate_from_desired_state: true`.

The simulator, the twin and the safety tests all run commands through this model, so that they check the setpoints that
an arm would get. It behaves as JTC's documentation describes:

- a message replaces the trajectory in force from the moment it is accepted (its points lie at stamp + time);
- before the first point it interpolates from the state that was desired when the message came in;
- between points: quintic if both ends have accelerations (our messages always have them);
- after the last point: that position, at rest;
- a trajectory whose last point is already past is refused.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from rlfp_ros.control.safety.motion import everywhere
from rlfp_ros.control.trajectory import Trajectory


class TrajectoryController:
    """The setpoint of the arm's position controller at any time. Times are integer nanoseconds, joints [J]."""

    def __init__(self, joint_count: int) -> None:
        self.joint_count = joint_count
        self.refused = 0  # malformed messages, and those that had ended before they came
        self._rest = np.zeros(joint_count)
        self.reset(self._rest)

    def reset(self, positions: np.ndarray) -> None:
        """Forget every command; the desired state is `positions` [J] rad, at rest, as when JTC is activated."""
        held = np.array((positions, self._rest, self._rest), dtype=float)
        self._knots: list[int] = []
        self._states = held[None]  # [N, 3, J] at the knots
        self._sampled: tuple[int, np.ndarray] | None = None  # the last sample, [3, J]: every message asks for it again

    def accept(self, trajectory: Trajectory, now_ns: int) -> bool:
        """Accept a command that arrives at `now_ns`; return False if it is refused and the old one continues."""
        times, states = trajectory.times, trajectory.states
        malformed = len(times) == 0 or states.shape != (len(times), 3, self.joint_count)
        if malformed or not everywhere(np.isfinite(states)):
            self.refused += 1
            return False
        start = trajectory.stamp_ns
        knots = [start + round(time * 1e9) for time in times.tolist()]
        if knots[-1] <= now_ns:
            self.refused += 1
            return False
        if knots[0] > now_ns:  # JTC does not use the desired state of a message that arrives late
            states = np.concatenate((self._sample(now_ns)[None], states))
            knots.insert(0, now_ns)
        self._knots, self._states, self._sampled = knots, states, None
        return True

    def sample(self, stamp_ns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the desired (positions, velocities, accelerations), each [J], at `stamp_ns`."""
        position, velocity, acceleration = self._sample(stamp_ns)
        return position, velocity, acceleration

    def _sample(self, stamp_ns: int) -> np.ndarray:
        """Return the desired state [3, J] at `stamp_ns`."""
        if self._sampled is not None and self._sampled[0] == stamp_ns:
            return self._sampled[1]
        knots = self._knots
        if not knots or stamp_ns >= knots[-1]:
            state = np.zeros((3, self.joint_count))
            state[0] = self._states[-1, 0]
            return state
        index = 0
        while knots[index + 1] <= stamp_ns:
            index += 1
        ends = self._states[index : index + 2].reshape(6, self.joint_count)
        blend = _quintic(max(0, stamp_ns - knots[index]), knots[index + 1] - knots[index])
        state = blend.dot(ends)
        self._sampled = stamp_ns, state
        return state


@lru_cache(maxsize=4096)  # in lock step the same few times repeat
def _quintic(time_ns: int, duration_ns: int) -> np.ndarray:
    """Return [3, 6]: from (position, velocity, acceleration) at both ends to those at `time_ns` on the quintic."""
    h, s = duration_ns * 1e-9, time_ns / duration_ns
    hermite = np.array(  # coefficients of s^0 .. s^5, for p0, v0 h, a0 h^2, p1, v1 h, a1 h^2
        (
            (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            (0.0, 1.0, 0.0, 0.0, 0.0, 0.0),
            (0.0, 0.0, 0.5, 0.0, 0.0, 0.0),
            (-10.0, -6.0, -1.5, 10.0, -4.0, 0.5),
            (15.0, 8.0, 1.5, -15.0, 7.0, -1.0),
            (-6.0, -3.0, -0.5, 6.0, -3.0, 0.5),
        )
    )
    basis = np.array(
        (
            (1.0, s, s**2, s**3, s**4, s**5),
            (0.0, 1.0, 2.0 * s, 3.0 * s**2, 4.0 * s**3, 5.0 * s**4),
            (0.0, 0.0, 2.0, 6.0 * s, 12.0 * s**2, 20.0 * s**3),
        )
    )
    per_time = np.array((1.0, 1.0 / h, 1.0 / (h * h)))[:, None]
    return per_time * (basis @ hermite) * np.array((1.0, h, h * h, 1.0, h, h * h))
