"""Tests of recorded bags: they are complete, describe their content, and survive kill -9, full disks and cut files."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import wait_until
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader

from rlfp_ros.recording import recovery
from rlfp_ros.recording.background_writer import BackgroundWriter
from rlfp_ros.recording.message_types import definition, type_hash, typestore
from rlfp_ros.recording.metadata import QualityOfService, offered_qos_profiles, parse_offered_qos_profiles
from rlfp_ros.recording.reader import BagReader
from rlfp_ros.recording.writer import RESERVE_NAME, BagWriter, DiskFullError
from rlfp_ros.schema import ConfigurationError

STRING = "std_msgs/msg/String"
IMAGE = "sensor_msgs/msg/Image"
START = 1_790_000_000_000_000_000


def string(text: str) -> bytes:
    return bytes(typestore().serialize_cdr(typestore().types[STRING](text), STRING))


def image(stamp: int, width: int = 84, height: int = 84) -> bytes:
    types = typestore().types
    header = types["std_msgs/msg/Header"](
        types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9), "camera_optical"
    )
    pixels = np.full(3 * width * height, stamp % 251, np.uint8)
    return bytes(typestore().serialize_cdr(types[IMAGE](header, height, width, "rgb8", 0, 3 * width, pixels), IMAGE))


def write_bag(folder: Path, count: int = 100) -> Path:
    writer = BagWriter(folder)
    writer.add_topic("/episode", STRING, [QualityOfService(durability="transient_local")])
    writer.add_topic("/camera/image_raw", IMAGE, [QualityOfService()])
    writer.add_topic("/silent", "sensor_msgs/msg/JointState")
    for number in range(count):
        stamp = START + number * 10_000_000
        writer.write("/episode", string(f"message {number}"), stamp + 300, stamp, number)
        writer.write("/camera/image_raw", image(stamp), stamp + 500, stamp, number)
    writer.close()
    return folder


def check_readable_by_others(folder: Path, expected: int) -> None:
    """The rosbags library and the mcap library, both with every checksum, agree with metadata.yaml."""
    metadata = yaml.safe_load((folder / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["message_count"] == expected
    (name,) = metadata["relative_file_paths"]
    with AnyReader([folder]) as reader:
        assert reader.message_count == expected
        found = [reader.deserialize(raw, connection.msgtype) for connection, _, raw in reader.messages()]
    assert len(found) == expected
    with (folder / name).open("rb") as file:
        records = make_reader(file, validate_crcs=True)
        assert records.get_header().profile == "ros2"
        assert sum(1 for _ in records.iter_messages()) == expected
        assert [record.name for record in records.iter_metadata()] == ["rosbag2"]
        summary = records.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        assert summary.statistics.message_count == expected


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


# ---- kill -9, cut files ----

KILLED = """
import sys, time
from pathlib import Path
from rlfp_ros.recording.background_writer import BackgroundWriter
from test_recording import IMAGE, image
writer = BackgroundWriter()
writer.roll(Path(sys.argv[1]))
number = 0
while True:
    now = time.time_ns()
    writer.write("/camera/image_raw", IMAGE, (), image(now), now, now, number)
    number += 1
    print(now, flush=True)
    time.sleep(0.01)
"""


def test_kill_9_costs_less_than_the_last_second(tmp_path: Path) -> None:
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])}
    folder = tmp_path / "bag"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    written = [int(process.stdout.readline()) for _ in range(150)]
    with pytest.raises(ConfigurationError, match="is being written"):
        recovery.recover(folder)
    assert recovery.unfinished(tmp_path) == []
    process.send_signal(signal.SIGKILL)
    written += [int(line) for line in process.stdout.read().split()]
    process.wait()
    killed_at = written[-1]

    assert recovery.unfinished(tmp_path) == [folder]
    with BagReader(folder) as bag:
        assert not bag.complete
        as_it_lies = [message.log_time_ns for message in bag.messages()]
    metadata = recovery.recover(folder)
    with BagReader(folder) as bag:
        assert bag.complete
        kept = [message.log_time_ns for message in bag.messages()]
    assert kept == as_it_lies == written[: len(kept)]
    assert killed_at - kept[-1] < 1e9
    check_readable_by_others(folder, metadata.message_count)
    assert recovery.unfinished(tmp_path) == []


def test_every_complete_chunk_of_a_truncated_file_is_recovered(tmp_path: Path) -> None:
    folder = tmp_path / "whole" / "bag"
    writer = BagWriter(folder)
    writer.add_topic("/episode", STRING, [QualityOfService()])
    whole_at = {}  # file size -> messages before it
    for number in range(30):
        writer.write("/episode", string(f"message {number}"), START + number, START + number)
        if number % 10 == 9:
            writer.flush()
            whole_at[writer.bytes_written] = number + 1
    writer.close()
    content = writer.path.read_bytes()
    generator = np.random.default_rng(11)
    ends = sorted({*generator.integers(60, len(content), 25).tolist(), *whole_at, len(content) - 1})
    for end in ends:
        cut = tmp_path / f"cut_{end}" / "bag"
        cut.mkdir(parents=True)
        (cut / "bag_0.mcap").write_bytes(content[:end])
        expected = max((count for size, count in whole_at.items() if size <= end), default=0)
        metadata = recovery.recover(cut)
        assert metadata.message_count >= expected
        assert metadata.message_count % 10 == 0
        check_readable_by_others(cut, metadata.message_count)
        with BagReader(cut) as bag:
            texts = [bag.decode(message).data for message in bag.messages()]
        assert texts == [f"message {number}" for number in range(metadata.message_count)]


def test_a_damaged_last_chunk_is_left_out(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag")
    writer.add_topic("/episode", STRING)
    writer.write("/episode", string("first"), START, START)
    writer.flush()
    before = writer.bytes_written
    writer.write("/episode", string("second"), START + 1, START + 1)
    writer.flush()
    content = bytearray(writer.path.read_bytes())
    content[before + 80] ^= 0xFF
    shutil.rmtree(tmp_path / "bag")
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "bag_0.mcap").write_bytes(content)
    assert recovery.recover(tmp_path / "bag").message_count == 1


def test_recovering_a_complete_bag_changes_nothing(tmp_path: Path) -> None:
    folder = write_bag(tmp_path / "bag")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    recovery.recover(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "magic bytes"), (b"not a bag at all", "magic bytes"), (b"\x89MCAP0\r\n", "header is cut")],
)
def test_files_that_are_not_bags_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "bag").mkdir()
    with pytest.raises(ConfigurationError, match=r"holds no \.mcap file"):
        recovery.recover(tmp_path / "bag")
    (tmp_path / "bag" / "bag_0.mcap").write_bytes(content)
    with pytest.raises(ConfigurationError, match=words):
        recovery.recover(tmp_path / "bag")
    assert recovery.main([str(tmp_path / "bag")]) == 2
    assert (tmp_path / "bag" / "bag_0.mcap").read_bytes() == content
    with pytest.raises(ConfigurationError, match="holds no bag"):
        BagReader(tmp_path / "nowhere")


# ---- full disks ----


class FullDisk:
    """Lets `room` bytes through to files, then says that no space is left: as a file system does, mid-write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        from rlfp_ros.recording import writer

        disk = self
        original = writer.DiskStream.write

        def write(stream: object, data: object) -> int:
            size = len(memoryview(data).cast("B"))  # type: ignore[arg-type]
            if size > disk.room:
                original(stream, bytes(memoryview(data))[: disk.room])  # type: ignore[arg-type]
                disk.room = 0
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            disk.room -= size
            return original(stream, data)  # type: ignore[arg-type]

        monkeypatch.setattr(writer.DiskStream, "write", write)


@pytest.mark.parametrize("room", [3_000, 60_000, 200_001])
def test_a_full_disk_ends_the_bag_with_one_sentence_and_keeps_the_written_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    FullDisk(monkeypatch, room)
    writer = BagWriter(tmp_path / "bag")
    writer.add_topic("/camera/image_raw", IMAGE)
    written = 0

    def fill() -> None:
        nonlocal written
        for number in range(100):
            writer.write("/camera/image_raw", image(START + number), START + number, START + number)
            writer.flush()
            written += 1

    with pytest.raises(DiskFullError, match="No space left on device") as caught:
        fill()
    assert writer.closed
    assert f"holds {written} messages" in str(caught.value)
    assert "\n" not in str(caught.value)
    check_readable_by_others(tmp_path / "bag", written)
    assert not (tmp_path / "bag" / RESERVE_NAME).exists()
    writer.close()  # does nothing


def test_a_file_size_limit_of_the_system_is_met_cleanly(tmp_path: Path) -> None:
    """RLIMIT_FSIZE: a real failing write(2), in a process of its own."""
    script = f"""
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parent.parent)!r}]
from test_recording import IMAGE, START, image
from rlfp_ros.recording.writer import BagWriter, DiskFullError
resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, resource.RLIM_INFINITY))
writer = BagWriter(Path({str(tmp_path)!r}) / "bag")
writer.add_topic("/camera/image_raw", IMAGE)
try:
    for number in range(1000):
        writer.write("/camera/image_raw", image(START + number), START + number, START + number)
        if number % 10 == 9:
            writer.flush()
except DiskFullError as error:
    print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "File too large" in result.stdout
    count = recovery.recover(tmp_path / "bag").message_count
    assert 60 <= count < 1000
    check_readable_by_others(tmp_path / "bag", count)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_disk_that_fills_up_stops_the_recorder_and_the_rest_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FullDisk(monkeypatch, 6_000_000)
    writer = BackgroundWriter()
    writer.roll(tmp_path / "bag")
    accepted = 0
    limit = time.monotonic() + 20
    while not writer.failure and time.monotonic() < limit:
        now = time.time_ns()
        accepted += writer.write("/camera/image_raw", IMAGE, (), image(now), now, now)
        time.sleep(0.002)
    assert "No space left on device" in writer.failure
    assert not writer.write("/camera/image_raw", IMAGE, (), image(START), START, START)
    assert writer.close()
    with BagReader(tmp_path / "bag") as bag:
        assert bag.complete
        kept = sum(1 for _ in bag.messages())
    assert kept > 0
    assert writer.written == {"/camera/image_raw": kept}
    assert writer.dropped == {"/camera/image_raw": accepted - kept + 1}


# ---- the thread ----


def test_a_slow_disk_drops_messages_and_counts_them_by_topic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = BackgroundWriter(queue_bytes=100_000)
    original = BagWriter.write

    def slow(*arguments: object) -> None:
        time.sleep(0.005)
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(BagWriter, "write", slow)
    writer.roll(tmp_path / "bag")
    taken = sum(writer.write("/camera/image_raw", IMAGE, (), image(START + n), START + n, START + n) for n in range(40))
    assert writer.close()
    assert 0 < taken < 40
    assert writer.dropped == {"/camera/image_raw": 40 - taken}
    assert writer.written == {"/camera/image_raw": taken}
    check_readable_by_others(tmp_path / "bag", taken)
    metadata = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["custom_data"] == {"dropped": f"/camera/image_raw: {40 - taken}"}


def test_a_bag_is_split_when_a_split_is_requested(tmp_path: Path) -> None:
    writer = BackgroundWriter()
    answered: list[int] = []
    for episode in range(3):
        writer.roll(tmp_path / f"episode_{episode}", then=partial(answered.append, episode))
        for number in range(5):
            writer.write("/episode", STRING, (), string(f"{episode}.{number}"), START + number, START + number)
    wait_until(lambda: len(answered) == 3)
    assert writer.close()
    for episode in range(3):
        with BagReader(tmp_path / f"episode_{episode}") as bag:
            assert [bag.decode(message).data for message in bag.messages()] == [f"{episode}.{n}" for n in range(5)]
    assert writer.bags == [tmp_path / f"episode_{episode}" for episode in range(3)]


def test_a_topic_of_an_unknown_type_is_refused_and_the_others_are_recorded(tmp_path: Path) -> None:
    writer = BackgroundWriter()
    writer.roll(tmp_path / "bag")
    writer.write("/odd", "unknown_msgs/msg/Odd", (), b"1234", START, START)
    writer.write("/episode", STRING, (), string("good"), START, START)
    assert writer.close()
    assert not writer.failure
    assert "unknown_msgs/msg/Odd is not known" in writer.refused["/odd"]
    assert writer.dropped == {"/odd": 1}
    with BagReader(tmp_path / "bag") as bag:
        assert [message.topic for message in bag.messages()] == ["/episode"]


def test_a_bag_that_gets_no_message_is_not_made(tmp_path: Path) -> None:
    writer = BackgroundWriter()
    writer.roll(tmp_path / "nothing")
    assert writer.close()
    assert not (tmp_path / "nothing").exists()
