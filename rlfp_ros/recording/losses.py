"""Counts messages of a topic that were published but never arrived, by their publishers' sequence numbers."""

from __future__ import annotations

from collections import deque

JOINING_S = 2.0  # after a publisher was found, its first message may carry any number
LEAVING_S = 5.0  # after a publisher has left, its last messages may still arrive
REMEMBERED = 10_000  # lost numbers that may still arrive late


class LossCounter:
    """Counts gaps in the sequence numbers of a topic's publishers.

    A message does not contain its publisher, so each number is assigned to the publisher whose last number is closest
    below it. With several publishers the sum of the gaps is still right.

    Attributes
    ----------
    lost : int
        Messages that never arrived so far.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._last: list[tuple[int, float]] = []  # last number of each publisher and when it came, oldest first
        self._unheard = 0  # publishers that have not sent anything yet
        self._joined_s = 0.0
        self._expects_first = False
        self._publishers = 0
        self._missing: set[int] = set()
        self._missing_order: deque[int] = deque()

    def publishers(self, count: int, now_s: float) -> None:
        """Set how many publishers the topic has; `now_s` is any steady clock.

        Messages of a publisher may arrive before it is counted here.
        """
        if count > self._publishers:
            self._unheard += count - self._publishers
            self._joined_s = now_s
        self._unheard = min(self._unheard, count)
        self._publishers = count
        while len(self._last) > count and now_s - self._last[0][1] > LEAVING_S:
            del self._last[0]

    def expect_first(self) -> None:
        """Count what the next new publisher sent before its first message that arrived, too."""
        self._expects_first = not self._last

    def message(self, sequence: int, now_s: float) -> None:
        """Record the number of a message that arrived."""
        below = max((entry for entry in self._last if entry[0] < sequence), default=None)
        if below is not None and below[0] == sequence - 1:
            self._last.remove(below)
        elif sequence in self._missing:  # late
            self._missing.discard(sequence)
            self.lost -= 1
            return
        else:
            new = self._unheard and (sequence == 1 or now_s - self._joined_s < JOINING_S)
            if below is None or new:  # a publisher that is new, or that was started again
                self._unheard = max(0, self._unheard - 1)
                if self._expects_first:
                    self._expects_first = False
                    self._lose(1, sequence)
            else:
                self._last.remove(below)
                self._lose(below[0] + 1, sequence)
        self._last.append((sequence, now_s))

    def _lose(self, first: int, end: int) -> None:
        self.lost += end - first
        for number in range(max(first, end - REMEMBERED), end):
            self._missing.add(number)
            self._missing_order.append(number)
        while len(self._missing_order) > REMEMBERED:
            self._missing.discard(self._missing_order.popleft())
