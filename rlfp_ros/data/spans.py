"""Where episodes lie in a bag, from what the graph announced about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlfp_ros.data.reading import EpisodeMark
from rlfp_ros.episode import Phase


@dataclass(frozen=True)
class EpisodeSpan:
    """Where an episode lies in a bag.

    Attributes
    ----------
    begins_ns, ends_ns
        When the recorder received its first and its last message.
    after_ns
        Stamp that its images must have passed: those up to it belong to the episode before.
    success
        Whether it was won; None if the bag does not say.
    """

    begins_ns: int
    ends_ns: int
    after_ns: int
    success: bool | None


def episode_spans(marks: Sequence[EpisodeMark]) -> list[EpisodeSpan]:
    """Return the spans that a bag's announcements define; a bag without any is one episode without an outcome."""
    always = 2**63 - 1
    if not marks:
        return [EpisodeSpan(0, always, -1, None)]
    spans: list[EpisodeSpan] = []
    begins, after = (0, -1) if marks[0].phase is Phase.FINISHED else (None, -1)
    for mark in marks:
        if mark.phase is Phase.RESET:
            if begins is not None:  # it was given up
                spans.append(EpisodeSpan(begins, mark.received_ns, after, None))
            begins, after = mark.received_ns, mark.stamp_ns
        elif mark.phase is Phase.RUNNING:
            begins = mark.received_ns
        elif begins is not None:
            spans.append(EpisodeSpan(begins, mark.received_ns, after, mark.success))
            begins = None
    if begins is not None:
        spans.append(EpisodeSpan(begins, always, after, None))
    return spans
