"""One episode as it is announced on the topic `episode`: what runs, in which phase, how it ended.

Written as JSON into a std_msgs/String, so that every ROS tool shows it and a bag can be cut into episodes
without any ROS 2 installed.
"""

from __future__ import annotations

import enum
import json
from typing import Any

from pydantic import Field

from rlfp_ros import schema
from rlfp_ros.schema import ConfigurationError, Schema


class Phase(enum.StrEnum):
    """Where an episode stands."""

    RESET = "reset"  # nodes forget the last episode and answer on `episode/ready`
    RUNNING = "running"
    FINISHED = "finished"


class Episode(Schema):
    """The content of topic `episode`."""

    id: int = Field(ge=0)
    seed: int = 0
    task: str = ""
    phase: Phase
    stamp: int = 0  # ns; for `reset` the last stamp of the episode before
    outcome: dict[str, Any] | None = None  # {success, steps, distance_m, ...}, in phase `finished`
    sample: dict[str, Any] | None = None  # the randomisation that was drawn, in phase `running`

    def to_json(self) -> str:
        """One line of JSON."""
        return self.model_dump_json()

    @staticmethod
    def from_json(text: str) -> Episode:
        """Raises ConfigurationError naming the field that is wrong."""
        return schema.validate(parse_json(text, "episode"), Episode, source="topic episode")


class Ready(Schema):
    """The content of topic `episode/ready`: a node has forgotten everything before episode `id`."""

    node: str
    id: int = Field(ge=0)

    def to_json(self) -> str:
        """One line of JSON."""
        return self.model_dump_json()

    @staticmethod
    def from_json(text: str) -> Ready:
        """Raises ConfigurationError naming the field that is wrong."""
        return schema.validate(parse_json(text, "episode/ready"), Ready, source="topic episode/ready")


def parse_json(text: str, topic: str) -> dict[str, Any]:
    """The document in a JSON message. Raises ConfigurationError naming the topic if it is no mapping of fields."""
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConfigurationError(f"topic {topic}: data is not JSON ({error})") from None
    if not isinstance(document, dict):
        raise ConfigurationError(f"topic {topic}: data is {type(document).__name__}, expected a mapping of fields")
    return document
