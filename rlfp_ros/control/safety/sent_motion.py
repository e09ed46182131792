"""The motion that was sent to the arm, on the clock of the ticks."""

from __future__ import annotations

from typing import NamedTuple

from rlfp_ros.control.arm import JointState
from rlfp_ros.control.safety.filter import SafetyFilter
from rlfp_ros.control.safety.motion import largest
from rlfp_ros.control.safety.tick_clock import TickClock
from rlfp_ros.control.trajectory import Trajectory

STANDING_RAD_S = 0.05  # measured speed up to this is noise: the arm starts at rest


class Advance(NamedTuple):
    """How time advanced to a tick.

    Attributes
    ----------
    paused
        Whether the stamps stand still: the arm continues along the motion that was sent, and nothing new is sent.
    jumped
        Whether a clock jumped, or stood still for too long.
    """

    paused: bool
    jumped: bool


ON_TIME = Advance(False, False)


class SentMotion:
    """Carries the filter's motion through time.

    Parameters
    ----------
    forward
        Whether the arm's controller keeps its last command, instead of playing trajectories that end at rest. Such a
        controller gets one step per tick, whatever the clocks show.
    """

    def __init__(self, safety: SafetyFilter, clock: TickClock, forward: bool) -> None:
        self._safety, self._clock, self.forward = safety, clock, forward
        self._running = self._sent = False

    @property
    def running(self) -> bool:
        """Whether a motion is in progress."""
        return self._running

    @property
    def at_rest(self) -> bool:
        """Whether nothing that was sent still moves the arm."""
        return not self._running or self._safety.resting

    def begin(self, joint_state: JointState) -> None:
        """Begin at measured joints; an arm that moves is brought to rest."""
        moving = largest(joint_state.velocities) > STANDING_RAD_S
        self._safety.start(joint_state.positions, joint_state.velocities if moving else None)
        self._running, self._sent = True, False
        self._clock.motion_begins()

    def end(self) -> None:
        """End the motion; nothing is sent until the next one begins."""
        self._running = False

    def trajectory(self, stamp_ns: int) -> Trajectory:
        """Return the trajectory to send at `stamp_ns`."""
        self._sent = True
        return self._safety.trajectory(stamp_ns)

    def advance(self, stamp_ns: int, now_ns: int) -> Advance:
        """Follow the sent motion up to this tick. If ticks are late, the arm follows the sent stop."""
        clock, safety = self._clock, self._safety
        if self.forward:  # one step per tick: late or missing ticks do not make it longer
            safety.advance()
            return Advance(False, clock.jumped_within_a_step(stamp_ns, now_ns))
        ticks, jumped = clock.ticks_since(stamp_ns, now_ns)
        safety.advance(ticks)
        if ticks and not jumped:
            return ON_TIME
        paused = ticks == 0 and self._sent
        if paused and clock.stood_still_too_long(now_ns):
            # The arm has followed the stop that it has, whatever our clock shows. If the motion continued from the time
            # at which the clock stopped, an arm at rest would be commanded to jump back.
            safety.advance(clock.steady_ticks(now_ns))
            clock.skip_to(now_ns)
            jumped = True
        return Advance(paused, jumped)
