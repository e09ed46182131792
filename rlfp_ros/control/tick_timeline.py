"""Stamps of ticks on a steady timer: evenly spaced, and never far from the clock of the senders."""

from __future__ import annotations

RESYNCHRONISE_TICKS = 2  # the timeline restarts if it is farther than this from the senders' clock
SLEW = 50e-6  # largest correction per tick, as a share of a tick; more would be visible as jerk in the commands


class TickTimeline:
    """A timeline that follows the senders' clock, because trajectories need even stamps although timers are uneven."""

    def __init__(self, rate_hz: float, clock_jump_s: float) -> None:
        self._rate_hz = round(rate_hz)
        self._dt_ns = round(1e9 / rate_hz)
        self._jump_ns = clock_jump_s * 1e9
        self._number = 0  # of the last tick since the origin
        self._origin_stamp_ns = self._origin_steady_ns = 0
        self._slewed = 0.0  # less than a nanosecond, to be added later

    def reached(self, steady_ns: int) -> int:
        """Return the present on this timeline, for messages without a stamp."""
        return self._origin_stamp_ns + steady_ns - self._origin_steady_ns

    def tick(self, steady_ns: int, clock_ns: int) -> int:
        """Return the stamp of a tick that happens at `steady_ns` (steady clock) and `clock_ns` (senders' clock)."""
        if self._origin_steady_ns == 0:
            self._origin_steady_ns, self._origin_stamp_ns = steady_ns, clock_ns
        number = max(self._number + 1, round((steady_ns - self._origin_steady_ns) / self._dt_ns))
        stamp_ns = self._stamp(number)
        ahead = stamp_ns - clock_ns
        if ahead > self._jump_ns:
            # The clock jumped back (another simulator or bag). Follow it; the controller detects the jump and stops.
            self._origin_stamp_ns -= ahead
            stamp_ns -= ahead
        elif ahead > RESYNCHRONISE_TICKS * self._dt_ns:
            # The clock is slow or stopped. Stamps must stay near it, while the watchdogs continue.
            self._origin_steady_ns += (number - self._number) * self._dt_ns
            number = self._number
            stamp_ns = self._stamp(number)
        elif ahead < -RESYNCHRONISE_TICKS * self._dt_ns:
            self._origin_stamp_ns -= ahead
            stamp_ns -= ahead
        else:
            self._slewed -= min(max(ahead / self._dt_ns, -1.0), 1.0) * SLEW * self._dt_ns
            whole = int(self._slewed)
            self._slewed -= whole
            self._origin_stamp_ns += whole
        self._number = number
        return stamp_ns

    def _stamp(self, number: int) -> int:
        return self._origin_stamp_ns + number * 1_000_000_000 // self._rate_hz
