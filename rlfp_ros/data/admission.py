"""Rules for which recordings become episodes: gaps between images, and their rate."""

from __future__ import annotations

from dataclasses import dataclass

GAP_S = 0.2  # an interval between two images that splits an episode
RATE_TOLERANCE = 0.2  # relative


@dataclass(frozen=True)
class Admission:
    """Which recordings become episodes.

    Attributes
    ----------
    gap_s
        A longer interval between two images splits an episode.
    rate_tolerance
        Largest difference between the rate of an episode's images and that of training, relative.
    refuses_gaps
        Whether a gap, or a clock that was set during an episode, refuses the bag instead of splitting the episode.
    refuses_faults
        Whether another rate, or a bag that was cut short, refuses the bag instead of leaving out what is affected.
    repeat_s
        In an interval above `gap_s` and up to this one, the image before it stands for the lost ones; 0 for never.
    """

    gap_s: float = GAP_S
    rate_tolerance: float = RATE_TOLERANCE
    refuses_gaps: bool = False
    refuses_faults: bool = False
    repeat_s: float = 0.0

    def lost_stamps(self, before_ns: int, after_ns: int, rate_hz: float) -> list[int]:
        """Return the stamps, evenly spaced, of the images that were lost between two and that are to be replaced."""
        interval_s = (after_ns - before_ns) * 1e-9
        if not self.gap_s < interval_s <= self.repeat_s:
            return []
        intervals = round(interval_s * rate_hz)
        return [before_ns + (after_ns - before_ns) * number // intervals for number in range(1, intervals)]


USUAL = Admission()
