"""`metadata.yaml` and QoS profiles as rosbag2 writes them (version 9: ROS 2 Jazzy)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from rlfp_ros.files import replace_whole
from rlfp_ros.recording.message_types import DISTRIBUTION, type_hash
from rlfp_ros.schema import ConfigurationError

VERSION = 9
FILE_NAME = "metadata.yaml"
# rmw's RMW_DURATION_INFINITE
_INFINITE = {"sec": 9223372036, "nsec": 854775807}


@dataclass(frozen=True)
class QualityOfService:
    """A publisher's quality of service, as far as playback needs it."""

    depth: int = 0  # 0 if it is not known, because discovery does not report it
    history: Literal["keep_last", "keep_all", "unknown"] = "unknown"
    reliability: Literal["reliable", "best_effort"] = "reliable"
    durability: Literal["volatile", "transient_local"] = "volatile"

    def document(self) -> dict[str, Any]:
        """Return the profile as rosbag2 writes it."""
        return {
            "history": self.history,
            "depth": self.depth,
            "reliability": self.reliability,
            "durability": self.durability,
            "deadline": dict(_INFINITE),
            "lifespan": dict(_INFINITE),
            "liveliness": "automatic",
            "liveliness_lease_duration": dict(_INFINITE),
            "avoid_ros_namespace_conventions": False,
        }


@dataclass(frozen=True)
class RecordedTopic:
    """One topic of a bag."""

    name: str
    type: str  # pkg/msg/Type
    qos: tuple[QualityOfService, ...] = ()
    message_count: int = 0


@dataclass(frozen=True)
class BagMetadata:
    """A bag of one MCAP file."""

    file_name: str
    start_ns: int
    end_ns: int
    message_count: int
    topics: tuple[RecordedTopic, ...]
    custom: dict[str, str]

    def document(self) -> dict[str, Any]:
        """The content of `rosbag2_bagfile_information`."""
        start = self.start_ns if self.message_count else 0
        duration = {"nanoseconds": self.end_ns - self.start_ns if self.message_count else 0}
        starting_time = {"nanoseconds_since_epoch": start}
        return {
            "version": VERSION,
            "storage_identifier": "mcap",
            "duration": duration,
            "starting_time": starting_time,
            "message_count": self.message_count,
            "topics_with_message_count": [
                {
                    "topic_metadata": {
                        "name": topic.name,
                        "type": topic.type,
                        "serialization_format": "cdr",
                        "offered_qos_profiles": [profile.document() for profile in topic.qos],
                        "type_description_hash": type_hash(topic.type),
                    },
                    "message_count": topic.message_count,
                }
                for topic in self.topics
            ],
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [self.file_name],
            "files": [
                {
                    "path": self.file_name,
                    "starting_time": dict(starting_time),
                    "duration": dict(duration),
                    "message_count": self.message_count,
                }
            ],
            "custom_data": self.custom or None,
            "ros_distro": DISTRIBUTION,
        }

    def record(self) -> dict[str, str]:
        """The MCAP metadata record `rosbag2`: lets `ros2 bag reindex` rebuild metadata.yaml."""
        return {"serialized_metadata": _dump(self.document())}

    def write(self, directory: Path) -> None:
        """Write metadata.yaml completely or not at all. Raises OSError."""
        replace_whole(directory / FILE_NAME, _dump({"rosbag2_bagfile_information": self.document()}))


def offered_qos_profiles(profiles: Sequence[QualityOfService]) -> str:
    """The channel metadata `offered_qos_profiles`: a YAML list in a string."""
    return _dump([profile.document() for profile in profiles]).rstrip("\n") if profiles else ""


def parse_offered_qos_profiles(text: str) -> tuple[QualityOfService, ...]:
    """Profiles that `offered_qos_profiles` wrote; those that cannot be read are left out."""
    try:
        documents = yaml.safe_load(text) or []
        return tuple(
            QualityOfService(
                depth=int(document["depth"]),
                history=document["history"],
                reliability=document["reliability"],
                durability=document["durability"],
            )
            for document in documents
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        return ()


def listed_files(directory: Path) -> list[str] | None:
    """Names of the files that metadata.yaml lists, or None if it is missing or not readable."""
    try:
        return [Path(name).name for name in _information(directory)["relative_file_paths"]]
    except _UNREADABLE:
        return None


def dropped_messages(directory: Path) -> str:
    """Return what our recorder lost, as `topic: count, ...`; "" if nothing, or if it is not known."""
    return custom_data(directory).get("dropped", "")


def custom_data(directory: Path) -> dict[str, str]:
    """Return the entries of `custom_data`; empty if metadata.yaml is missing, not readable, or has none."""
    try:
        return _custom(_information(directory))
    except _UNREADABLE:
        return {}


def add_custom_data(directory: Path, entries: Mapping[str, str]) -> None:
    """Write entries of `custom_data` into the metadata.yaml of a closed bag, completely or not at all.

    Raises
    ------
    ConfigurationError
        If metadata.yaml is missing or not readable.
    OSError
        If it cannot be written. It is unchanged then.
    """
    try:
        information = _information(directory)
        custom = _custom(information)
    except _UNREADABLE:
        raise ConfigurationError(
            f"{directory}: has no readable {FILE_NAME}, so it is no closed bag; "
            f"repair it with `python -m rlfp_ros.recording.recovery {directory}`"
        ) from None
    information["custom_data"] = custom | dict(entries)
    replace_whole(directory / FILE_NAME, _dump({"rosbag2_bagfile_information": information}))


@dataclass(frozen=True)
class BagSummary:
    """What metadata.yaml says of a bag as a whole; times in ns since the epoch."""

    start_ns: int
    duration_ns: int
    message_count: int
    custom: dict[str, str]


def bag_summary(directory: Path) -> BagSummary | None:
    """Read a bag's summary; None if metadata.yaml is missing or not readable."""
    try:
        information = _information(directory)
        return BagSummary(
            int(information["starting_time"]["nanoseconds_since_epoch"]),
            int(information["duration"]["nanoseconds"]),
            int(information["message_count"]),
            _custom(information),
        )
    except _UNREADABLE:
        return None


_UNREADABLE = (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError, RecursionError)


def _information(directory: Path) -> Any:
    text = (directory / FILE_NAME).read_text(encoding="utf-8")
    return yaml.load(text, _Loader)["rosbag2_bagfile_information"]


def _custom(information: Any) -> dict[str, str]:
    return {str(key): str(value) for key, value in (information.get("custom_data") or {}).items()}


# The parser in C reads a bag's metadata in 3 ms instead of 30.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Dumper(yaml.SafeDumper):
    """A dumper without anchors, which people cannot read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _dump(document: Any) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True)
