"""Garbage collection between two ticks, for a process that has switched off Python's own."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 2000  # that many are collected between two ticks, which takes about 0.1 ms
REST_COLLECTION_S = 10.0  # between full collections while the arm rests


class Garbage:
    """Collects garbage if Python does not."""

    def __init__(self) -> None:
        self._collected_at = 0.0

    def collect(self, at_rest: bool, now_s: float) -> None:
        """Collect everything while the arm rests, otherwise young objects."""
        if gc.isenabled():
            return
        if at_rest and now_s - self._collected_at > REST_COLLECTION_S:
            self._collected_at = now_s
            gc.collect()
        elif gc.get_count()[0] > YOUNG_OBJECTS:
            gc.collect(0)
