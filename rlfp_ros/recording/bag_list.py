"""What a recorder says about itself and about the bags of its folder, for the operator's page."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import Field

from rlfp_ros import schema
from rlfp_ros.episode import parse_json
from rlfp_ros.recording import topics
from rlfp_ros.recording.labels import BagLabel
from rlfp_ros.schema import ConfigurationError, Schema

MAX_NAME = 200  # characters of a bag's name
MAX_REQUEST = 4000  # characters of a request; the longest note fits even if all of it is escaped
_Count = Annotated[int, Field(ge=0, le=10**10)]
_Amount = Annotated[float, Field(ge=0.0, le=1e10)]


class RecorderState(Schema):
    """The content of topic `recorder/state`."""

    recording: bool
    bag: str = ""  # name of the bag that is written, or of the last one
    duration_s: _Amount = 0.0
    messages: _Count = 0
    megabytes: _Amount = 0.0
    dropped: _Count = 0  # messages that this bag lost
    label: BagLabel | None = None
    fault: str = ""  # why nothing more is written
    directory: str = ""

    @staticmethod
    def from_json(text: str) -> RecorderState:
        """Parse one line of JSON. Raises ConfigurationError that names the wrong field."""
        source = f"topic {topics.RECORDER_STATE}"
        return schema.validate(parse_json(text, topics.RECORDER_STATE), RecorderState, source=source)


class ListedBag(Schema):
    """One closed bag of the folder."""

    name: str
    start_ms: int = Field(default=0, ge=0, le=10**14)  # since the epoch
    duration_s: _Amount = 0.0
    messages: _Count = 0
    megabytes: _Amount = 0.0
    label: BagLabel | None = None
    episodes: str = ""  # how its episodes ended, in words
    dropped: str = ""  # what it lost, in words


class BagListing(Schema):
    """The content of topic `recorder/bags`."""

    bags: tuple[ListedBag, ...] = ()  # the newest first
    more: _Count = 0  # older ones that are not listed

    @staticmethod
    def from_json(text: str) -> BagListing:
        """Parse one line of JSON. Raises ConfigurationError that names the wrong field."""
        source = f"topic {topics.RECORDER_BAGS}"
        return schema.validate(parse_json(text, topics.RECORDER_BAGS), BagListing, source=source)


class LabelRequest(BagLabel):
    """The value of the recorder's parameter `label`: a label and the name of its bag; "": the newest one."""

    bag: str = Field(default="", max_length=MAX_NAME)

    @property
    def bag_label(self) -> BagLabel:
        """The label alone."""
        return BagLabel(label=self.label, note=self.note, operator=self.operator)

    @staticmethod
    def from_json(text: str) -> LabelRequest:
        """Parse one line of JSON. Raises ConfigurationError that names the wrong field."""
        if len(text) > MAX_REQUEST:
            raise ConfigurationError(f"label has {len(text)} characters, expected at most {MAX_REQUEST}")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            example = '{"label": "success", "note": "", "operator": ""}'
            raise ConfigurationError(f"label is {schema.shown(text)}, expected JSON such as {example}")
        return schema.validate(document, LabelRequest, source="label")
