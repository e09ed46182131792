"""Tests of what a recorded bag holds: messages, the fields of metadata.yaml, message types and quality of service."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from mcap.reader import make_reader
from small_bags import IMAGE, START, STRING, check_readable_by_others, write_bag

from rlfp_ros.recording.message_types import definition, type_hash
from rlfp_ros.recording.metadata import QualityOfService, offered_qos_profiles, parse_offered_qos_profiles
from rlfp_ros.recording.reader import BagReader
from rlfp_ros.recording.writer import RESERVE_NAME, BagWriter
from rlfp_ros.schema import ConfigurationError


def test_a_bag_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    folder = write_bag(tmp_path / "bag")
    with BagReader(folder) as bag:
        assert bag.complete
        assert bag.topics == {
            "/episode": STRING,
            "/camera/image_raw": IMAGE,
            "/silent": "sensor_msgs/msg/JointState",
        }
        found = list(bag.messages())
        assert [message.log_time_ns for message in found] == sorted(message.log_time_ns for message in found)
        first = found[0]
        assert (first.topic, first.type) == ("/episode", STRING)
        assert (first.log_time_ns, first.publish_time_ns) == (START + 300, START)
        assert bag.decode(first).data == "message 0"
        images = list(bag.messages({"/camera/image_raw"}))
        assert len(images) == 100
        assert bag.decode(images[42]).data.shape == (84 * 84 * 3,)
    check_readable_by_others(folder, 200)
    assert not (folder / RESERVE_NAME).exists()


def test_metadata_has_the_fields_that_rosbag2_of_jazzy_writes(tmp_path: Path) -> None:
    text = (write_bag(tmp_path / "bag") / "metadata.yaml").read_text()
    metadata = yaml.safe_load(text)["rosbag2_bagfile_information"]
    # rosbag2_storage/src/rosbag2_storage and include/rosbag2_storage/yaml.hpp, branch jazzy, BagMetadata version 9
    assert list(metadata) == [
        *("version", "storage_identifier", "duration", "starting_time", "message_count", "topics_with_message_count"),
        *("compression_format", "compression_mode", "relative_file_paths", "files", "custom_data", "ros_distro"),
    ]
    assert (metadata["version"], metadata["storage_identifier"], metadata["ros_distro"]) == (9, "mcap", "jazzy")
    assert metadata["starting_time"] == {"nanoseconds_since_epoch": START + 300}
    assert metadata["duration"] == {"nanoseconds": 99 * 10_000_000 + 200}
    assert metadata["files"] == [
        {
            "path": "bag_0.mcap",
            "starting_time": metadata["starting_time"],
            "duration": metadata["duration"],
            "message_count": 200,
        }
    ]
    topics = {entry["topic_metadata"]["name"]: entry for entry in metadata["topics_with_message_count"]}
    assert {name: entry["message_count"] for name, entry in topics.items()} == {
        "/episode": 100,
        "/camera/image_raw": 100,
        "/silent": 0,
    }
    episode = topics["/episode"]["topic_metadata"]
    assert list(episode) == ["name", "type", "serialization_format", "offered_qos_profiles", "type_description_hash"]
    assert episode["serialization_format"] == "cdr"
    (qos,) = episode["offered_qos_profiles"]
    assert list(qos) == [
        *("history", "depth", "reliability", "durability", "deadline", "lifespan", "liveliness"),
        *("liveliness_lease_duration", "avoid_ros_namespace_conventions"),
    ]
    assert (qos["history"], qos["reliability"], qos["durability"]) == ("unknown", "reliable", "transient_local")


def test_channels_and_schemas_are_those_of_rosbag2(tmp_path: Path) -> None:
    folder = write_bag(tmp_path / "bag")
    with (folder / "bag_0.mcap").open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    channels = {channel.topic: channel for channel in summary.channels.values()}
    schema = summary.schemas[channels["/camera/image_raw"].schema_id]
    assert (schema.name, schema.encoding) == (IMAGE, "ros2msg")
    text = schema.data.decode()
    assert text.startswith("std_msgs/Header header\n")
    assert "=" * 80 + "\nMSG: builtin_interfaces/Time\n" in text
    channel = channels["/episode"]
    assert channel.message_encoding == "cdr"
    assert channel.metadata["topic_type_hash"] == type_hash(STRING)
    assert yaml.safe_load(channel.metadata["offered_qos_profiles"])[0]["durability"] == "transient_local"


def test_type_hashes_are_those_of_the_installed_packages() -> None:
    import json

    import sensor_msgs

    share = Path(sensor_msgs.__file__).parents[4] / "share"  # <prefix>/lib/python3.x/site-packages/sensor_msgs
    for typename in (STRING, IMAGE, "sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory"):
        package, _, name = typename.partition("/msg/")
        file = share / package / "msg" / f"{name}.json"
        hashes = {entry["type_name"]: entry["hash_string"] for entry in json.loads(file.read_text())["type_hashes"]}
        assert type_hash(typename) == hashes[typename]


def test_types_of_the_user_s_own_packages_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "share" / "my_robot" / "msg"
    folder.mkdir(parents=True)
    (folder / "Grip.msg").write_text("std_msgs/Header header\nmy_robot/Finger[2] fingers\nfloat64 width 0.1\n")
    (folder / "Finger.msg").write_text("string name\nfloat32[] forces\n")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    text = definition("my_robot/msg/Grip")
    assert "MSG: my_robot/Finger\nstring name\n" in text
    with pytest.raises(ConfigurationError, match="my_robot/msg/Nothing is not known; source the workspace"):
        definition("my_robot/msg/Nothing")


def test_qos_profiles_survive() -> None:
    profiles = (QualityOfService(5, "keep_last", "best_effort", "volatile"), QualityOfService())
    assert parse_offered_qos_profiles(offered_qos_profiles(profiles)) == profiles
    assert parse_offered_qos_profiles("") == parse_offered_qos_profiles("{") == parse_offered_qos_profiles("[1]") == ()


def test_a_bag_is_never_written_over(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", 1)
    with pytest.raises(ConfigurationError, match="exists, and a bag is never written over"):
        BagWriter(tmp_path / "bag")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be made"):
        BagWriter(tmp_path / "file" / "bag")


def test_an_empty_bag_is_a_bag(tmp_path: Path) -> None:
    BagWriter(tmp_path / "bag").close()
    check_readable_by_others(tmp_path / "bag", 0)
