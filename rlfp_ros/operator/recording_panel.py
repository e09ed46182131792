"""What the operator's page shows of the recorder: state, label and the list of bags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlfp_ros.operator.robot import Recorder
from rlfp_ros.recording.bag_list import BagListing, RecorderState

SILENT_S = 6.0  # a recorder that has not reported for this long is gone; it reports every second


@dataclass(eq=False)
class RecordingPanel:
    """The recorder, as far as it is known here.

    Attributes
    ----------
    recorder
        What starts, stops and labels; None if this desk has none.
    state
        The newest message on recorder/state.
    listing
        The newest message on recorder/bags.
    """

    recorder: Recorder | None = None
    state: RecorderState | None = None
    listing: BagListing = field(default_factory=BagListing)
    _heard_s: float = 0.0  # on the desk's clock

    def on_state(self, state: RecorderState, now_s: float) -> None:
        """Handle a message of the topic recorder/state."""
        self.state, self._heard_s = state, now_s

    def on_listing(self, listing: BagListing) -> None:
        """Handle a message of the topic recorder/bags."""
        self.listing = listing

    def recorder_at(self, now_s: float) -> Recorder | None:
        """Return the recorder; None if it is not there or has gone."""
        return self.recorder if self.state is not None and now_s - self._heard_s < SILENT_S else None

    def shown(self, now_s: float) -> dict[str, Any] | None:
        """Return the state for the page; None if there is no recorder."""
        state = self.state
        if state is None or self.recorder_at(now_s) is None:
            return None
        shown = state.model_dump(mode="json")
        if state.recording:
            shown["duration_s"] = state.duration_s + now_s - self._heard_s
        shown["duration_s"] = round(shown["duration_s"], 1)
        return shown
