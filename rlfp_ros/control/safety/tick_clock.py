"""The time of the ticks on two clocks: the senders' stamps and the steady clock."""

from __future__ import annotations

from rlfp_ros.control.controller_settings import ControllerSettings

NEVER = -(1 << 62)
MAX_TICKS = 5000  # largest number of ticks to advance after a jump; longer than any stop


class TickClock:
    """Keeps the time of the last tick and counts the ticks since.

    Attributes
    ----------
    stamp_ns
        Time of the last tick on the senders' clock.
    now_ns
        Time of the last tick on the steady clock.
    sender_ns
        The senders' clock when an input comes, if the caller knows it: ticks may be late.
    """

    def __init__(self, settings: ControllerSettings) -> None:
        self._tick_ns = 1e9 / settings.control_rate_hz
        self._jump_s = settings.clock_jump_s
        self._jump_ns = settings.clock_jump_s * 1e9
        self._tolerance_ns = (settings.future_tolerance_s + 1.0 / settings.control_rate_hz) * 1e9
        self.stamp_ns = self.now_ns = NEVER
        self.sender_ns = NEVER
        self._moved_ns = NEVER  # when the stamps last advanced

    def ticked(self, stamp_ns: int, now_ns: int) -> None:
        """Take note of a tick."""
        self.stamp_ns, self.now_ns = stamp_ns, now_ns

    def in_future(self, stamp_ns: int, now_ns: int) -> bool:
        """Return whether a stamp is ahead of both `sender_ns` and the ticks' timeline extrapolated to `now_ns`."""
        return self.stamp_ns != NEVER and stamp_ns - self.reached(now_ns) > self._tolerance_ns

    def reached(self, now_ns: int) -> int:
        """Return the present on the senders' clock: `sender_ns`, or the ticks' timeline extrapolated to `now_ns`."""
        return max(self.stamp_ns + max(0, now_ns - self.now_ns), self.sender_ns)

    def motion_begins(self) -> None:
        """Restart the measurement of how long the stamps stand still."""
        self._moved_ns = self.now_ns

    def jumped_within_a_step(self, stamp_ns: int, now_ns: int) -> bool:
        """Return whether the stamps jumped back or ahead or stood still for too long, if each tick is one step."""
        elapsed = stamp_ns - self.stamp_ns
        if elapsed:
            self._moved_ns = now_ns
        return elapsed < 0 or max(elapsed, now_ns - self._moved_ns) > self._jump_ns

    def ticks_since(self, stamp_ns: int, now_ns: int) -> tuple[int, bool]:
        """Return how many ticks to advance up to `stamp_ns`, and whether the clock jumped.

        After a jump back the stamps do not show how far the arm moved, so the steady clock is used.
        """
        elapsed = stamp_ns - self.stamp_ns
        ticks = round(elapsed / self._tick_ns)
        jumped = ticks < 0 or elapsed > self._jump_ns
        if jumped:
            ticks = min(max(ticks, self.steady_ticks(now_ns), 1), MAX_TICKS)
        return ticks, jumped

    def stood_still_too_long(self, now_ns: int) -> bool:
        """Return whether the last tick with a new stamp is too long ago on the steady clock."""
        return (now_ns - self.now_ns) * 1e-9 > self._jump_s

    def skip_to(self, now_ns: int) -> None:
        """Move the steady clock's last tick to `now_ns`: the arm moved until then while the stamps stood still."""
        self.now_ns = now_ns

    def steady_ticks(self, now_ns: int) -> int:
        """Return the ticks since the last one by the steady clock."""
        return min(max(round((now_ns - self.now_ns) / self._tick_ns), 0), MAX_TICKS)
