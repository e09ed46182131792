"""Content of the topic `safety/state`: whether the arm may move, and why not."""

from __future__ import annotations

from pydantic import Field

from rlfp_ros import schema
from rlfp_ros.control.safety.verdict import State
from rlfp_ros.episode import parse_json
from rlfp_ros.schema import Schema


class SafetyState(Schema):
    """The content of topic `safety/state`."""

    state: State
    reasons: tuple[str, ...] = ()  # codes of `verdict.Reason`; empty if all is well
    gain: float = Field(default=0.0, ge=0.0, le=1.0)  # of the residual, or of a person's velocity
    stamp: int = 0  # stamp of the tick, ns
    detail: str = ""  # one sentence about a reason that needs more than its code

    @property
    def enabled(self) -> bool:
        """Whether the arm may move."""
        return self.state in (State.ACTIVE, State.HOLDING)

    def __str__(self) -> str:
        return f"{self.state.value} ({', '.join(self.reasons) or 'no reasons'})"

    def to_json(self) -> str:
        """Return one line of JSON."""
        return self.model_dump_json()

    @staticmethod
    def from_json(text: str) -> SafetyState:
        """Parse one line of JSON. Raises ConfigurationError that names the field that is wrong."""
        return schema.validate(parse_json(text, "safety/state"), SafetyState, source="topic safety/state")
