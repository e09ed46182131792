"""An episode as announced on the topic `episode`: task, phase and outcome.

It is JSON in a std_msgs/String, so that every ROS tool shows it and a bag can be cut into episodes
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
    """The phase of an episode."""

    RESET = "reset"  # nodes forget the last episode and answer on `episode/ready`
    RUNNING = "running"
    FINISHED = "finished"


class Episode(Schema):
    """The content of topic `episode`."""

    id: int = Field(ge=0)
    seed: int = 0
    task: str = ""
    phase: Phase
    nodes: tuple[str, ...] = ()  # in phase `reset`: nodes that must be connected with each other before the episode
    stamp: int = 0  # ns; in phase `reset`, the last stamp of the previous episode
    outcome: dict[str, Any] | None = None  # {success, steps, distance_m, ...}, in phase `finished`
    sample: dict[str, Any] | None = None  # the randomisation that was drawn, in phase `running`

    def to_json(self) -> str:
        """Return one line of JSON."""
        return self.model_dump_json()

    @staticmethod
    def from_json(text: str) -> Episode:
        """Parse one line of JSON. Raises ConfigurationError that names the wrong field."""
        return schema.validate(parse_json(text, "episode"), Episode, source="topic episode")


class Ready(Schema):
    """The content of topic `episode/ready`: a node has forgotten everything before episode `id`."""

    node: str
    id: int = Field(ge=0)

    def to_json(self) -> str:
        """Return one line of JSON."""
        return self.model_dump_json()

    @staticmethod
    def from_json(text: str) -> Ready:
        """Parse one line of JSON. Raises ConfigurationError that names the wrong field."""
        return schema.validate(parse_json(text, "episode/ready"), Ready, source="topic episode/ready")


def parse_json(text: str, topic: str) -> dict[str, Any]:
    """Parse a JSON message. Raises ConfigurationError naming the topic if it is not a mapping of fields."""
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConfigurationError(f"topic {topic}: data is not JSON ({error})") from None
    if not isinstance(document, dict):
        raise ConfigurationError(f"topic {topic}: data is {type(document).__name__}, expected a mapping of fields")
    return document
