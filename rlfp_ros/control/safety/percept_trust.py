"""How far percepts are trusted: by their age, their faults and the domain shift."""

from __future__ import annotations

from collections import deque

from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.safety.ages import age_s, fade
from rlfp_ros.control.safety.tick_clock import NEVER
from rlfp_ros.control.safety.verdict import Reason


class PerceptTrust:
    """What the supervisor knows of perception."""

    def __init__(self, settings: ControllerSettings) -> None:
        self._settings = settings
        self.forget()

    def forget(self) -> None:
        """Forget all percepts."""
        self._seen_ns = self._stamp_ns = NEVER
        self._fault: Reason | None = None
        self._shifts: deque[tuple[int, float]] = deque()  # (received at, score), while it counts

    def refuse(self, fault: Reason) -> None:
        """Take note of a percept that was rejected: it refreshes no age and clears no fault."""
        self._fault = fault

    def saw(self, stamp_ns: int, now_ns: int, shift: float | None, alive: bool) -> None:
        """Take note of a percept; `alive`: whether it shows that the camera is alive."""
        if alive:
            self._fault = None
            self._seen_ns, self._stamp_ns = now_ns, stamp_ns
        if shift is not None:
            self._shifts.append((now_ns, shift))
            self._lasting_shift(now_ns)  # forgets those that no longer count

    def ages(self, stamp_ns: int, now_ns: int) -> tuple[float, float]:
        """Return the newest percept's age since receipt and by stamp, each as a share of the holding timeout.

        0 before the first percept.
        """
        if self._seen_ns == NEVER:
            return 0.0, 0.0
        by_receipt = age_s(now_ns, self._seen_ns) / self._settings.percept_timeout_s
        return by_receipt, age_s(stamp_ns, self._stamp_ns) / self._settings.percept_max_age_s

    def trust(self, ages: tuple[float, float], started_ns: int, now_ns: int, reasons: list[Reason]) -> float:
        """Return the trust in percepts with these `ages`, 0..1, and add the reasons why it is low."""
        settings = self._settings
        if self._fault is not None:
            reasons.append(self._fault)
        if self._seen_ns != NEVER:
            by_receipt, by_stamp = ages
            if by_receipt > 1.0:
                reasons.append(Reason.PERCEPT_STALE)
            elif by_stamp > 1.0:
                reasons.append(Reason.PERCEPT_OLD)
        elif settings.require_percepts and age_s(now_ns, started_ns) > settings.percept_timeout_s:
            reasons.append(Reason.PERCEPT_STALE)
        shift = self._lasting_shift(now_ns)
        if shift <= settings.shift_slow:
            return 1.0
        if shift > settings.shift_hold:
            reasons.append(Reason.DOMAIN_SHIFT)
        return fade(shift, settings.shift_slow, settings.shift_hold)

    def _lasting_shift(self, now_ns: int) -> float:
        """Return the lowest domain shift of the last images: a single odd image does not mean a changed scene."""
        shifts = self._shifts
        if not shifts:
            return 0.0
        while len(shifts) > 1 and age_s(now_ns, shifts[0][0]) > self._settings.shift_time_s:
            shifts.popleft()
        return min([shift for _, shift in shifts])
