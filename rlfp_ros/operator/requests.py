"""The messages that a page sends, as a schema: everything else closes its connection."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from rlfp_ros.control.safety.takeover import Shares
from rlfp_ros.recording.bag_list import MAX_NAME, LabelRequest
from rlfp_ros.recording.labels import MAX_NOTE, MAX_OPERATOR, Label
from rlfp_ros.schema import Schema, validate

MAX_CHARACTERS = 1200  # of one message; a note of the greatest length has room although it is escaped
MAX_PIXEL = 10_000
_Number = Annotated[int, Field(ge=0, le=2**53 - 1, strict=True)]  # that JavaScript can count to


class Beat(Schema):
    """The page is alive and shows a status. `shown` is the time of the newest status that it drew."""

    type: Literal["beat"]
    shown: _Number


class Drawn(Schema):
    """The page drew an image, and waits for the next one."""

    type: Literal["drawn"]
    image: _Number


class JogRequest(Schema):
    """A velocity of the tool that the person asks for, as shares of the highest jog speeds, in the base frame.

    `shown` is the time of the newest status that the page drew.
    """

    type: Literal["jog"]
    shown: _Number
    linear: Shares
    angular: Shares


class Press(Schema):
    """A command without a value."""

    type: Literal[
        "stop", "enable", "step", "disable", "reset", "take", "release", "forget_goal", "record", "end_record"
    ]


class Gain(Schema):
    """A new value of the controller's parameter `residual_gain`."""

    type: Literal["gain"]
    value: float = Field(ge=-1e3, le=1e3)


class Click(Schema):
    """A click into an image, pixels; pixel centres are at integer coordinates."""

    type: Literal["click"]
    image: _Number
    u: float = Field(ge=-1, le=MAX_PIXEL)
    v: float = Field(ge=-1, le=MAX_PIXEL)


class SendGoal(Schema):
    """Sends the goal that the page shows."""

    type: Literal["send_goal"]
    goal: _Number


class LabelBag(Schema):
    """Labels a bag; `bag` is the name of the one that the page showed with the buttons."""

    type: Literal["label"]
    bag: str = Field(max_length=MAX_NAME)
    label: Label
    note: str = Field(default="", max_length=MAX_NOTE)
    operator: str = Field(default="", max_length=MAX_OPERATOR)

    def request(self) -> LabelRequest:
        """Return it for the recorder. Raises ConfigurationError if a text is not one line."""
        return validate(self.model_dump(exclude={"type"}), LabelRequest, source="label")


Request = Beat | Drawn | JogRequest | Press | Gain | Click | SendGoal | LabelBag
_REQUESTS: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="type")])


class BadRequest(Exception):
    """A message that no page of ours sends. Its connection is closed."""


def parse_request(text: str) -> Request:
    """Parse one message of a page.

    Raises
    ------
    BadRequest
        If it is too long, no JSON, or does not fit the schema.
    """
    if len(text) > MAX_CHARACTERS:
        raise BadRequest(f"a message of {len(text)} characters, expected at most {MAX_CHARACTERS}")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequest("a message that is not JSON") from None
    try:
        return _REQUESTS.validate_python(document)
    except (ValidationError, RecursionError):
        raise BadRequest("a message that does not fit the schema, or an unknown command") from None
