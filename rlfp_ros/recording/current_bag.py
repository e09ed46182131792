"""The bag that a recorder is writing, or wrote last: its name, label, duration and outcomes."""

from __future__ import annotations

import time
from collections import Counter
from typing import NamedTuple

from rlfp_ros.recording.labels import BagLabel


class Totals(NamedTuple):
    """What a recorder has written and lost, over all bags."""

    messages: int = 0
    bytes: int = 0  # on the disk
    dropped: int = 0  # messages

    def __sub__(self, before: Totals) -> Totals:
        """Return what was added since `before`."""
        return Totals(*(max(0, now - then) for now, then in zip(self, before, strict=True)))


class CurrentBag:
    """The bag that is written, or was last.

    Parameters
    ----------
    name
        Of its folder; "" if nothing has been recorded.
    totals_before
        The recorder's totals when it began.
    """

    def __init__(self, name: str = "", totals_before: Totals = Totals()) -> None:  # noqa: B008
        self.name, self.totals_before = name, totals_before
        self.label: BagLabel | None = None
        self.outcomes: Counter[str] = Counter()  # of its episodes: won, lost
        self._began_s: float | None = None  # when its first message came, on the steady clock
        self._ended_s: float | None = None

    def begin(self, now_s: float) -> None:
        """Take note of a message."""
        if self._began_s is None:
            self._began_s = now_s

    def end(self, now_s: float) -> None:
        """Take note of the end."""
        self._ended_s = now_s

    @property
    def duration_s(self) -> float:
        """Time since its first message, s."""
        if self._began_s is None:
            return 0.0
        return (time.monotonic() if self._ended_s is None else self._ended_s) - self._began_s

    def outcomes_in_words(self) -> str:
        """Return how its episodes ended, for example `2 won, 1 lost`."""
        return ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items(), reverse=True))
