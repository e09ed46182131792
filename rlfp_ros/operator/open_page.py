"""One open page, as the desk knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlfp_ros.operator.clicked_goal import ClickedGoal
from rlfp_ros.operator.requests import BadRequest
from rlfp_ros.recording.bag_list import BagListing

RATE_HZ = 120.0  # messages of one page that are accepted in the long run; a page sends about 65
BURST = 240.0  # and at once


@dataclass(eq=False)
class Page:
    """One open page."""

    number: int
    joined_s: float
    wake: Callable[[], None]
    beat_s: float = -np.inf  # when its last beat came
    round_trip_ms: float | None = None
    in_flight: int | None = None  # image that was sent and not drawn yet
    newest_sent: int = 0  # image
    tokens: float = BURST
    refilled_s: float = 0.0
    jog_s: float = -np.inf  # when its last jog was passed on
    jog_refused_s: float = -np.inf  # when the log last said that one was not
    goal: ClickedGoal | None = None  # shown, not sent
    goal_fault: str = ""
    images_drawn: int = 0
    listing: BagListing | None = None  # that it was sent
    sample: int = 0  # the newest of the plots that it was sent

    def limit_rate(self, now_s: float) -> None:
        """Count a message. Raises BadRequest if the page sends more than it should."""
        self.tokens = min(BURST, self.tokens + RATE_HZ * (now_s - (self.refilled_s or now_s)))
        self.refilled_s = now_s
        self.tokens -= 1.0
        if self.tokens < 0.0:
            raise BadRequest(f"more than {RATE_HZ:g} messages per second")
