"""Tests of `play`: a bag on a WebSocket as Foxglove and Lichtblick read it, on loopback, read-only, with a timeline."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_bags import START, string, write_bag
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from rlfp_ros import cli
from rlfp_ros.recording.foxglove_server import serve_bag
from rlfp_ros.recording.playback import BagPlayer
from rlfp_ros.recording.reader import BagReader, RecordedMessage

LIMIT_S = 20.0
MESSAGE, PLAYBACK_STATE = 1, 5  # first byte of the server's binary messages
PLAYBACK_REQUEST = 3
PLAY, PAUSE = 0, 1


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of a server that plays a bag of 100 strings and images, 10 ms apart."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = int(probe.getsockname()[1])
    ended = threading.Event()
    server = threading.Thread(target=serve_bag, args=(write_bag(tmp_path / "bag"), number, None, ended.is_set))
    server.start()
    yield number
    ended.set()
    server.join(LIMIT_S)
    assert not server.is_alive()


def viewer(port: int) -> ClientConnection:
    until = time.monotonic() + LIMIT_S
    while True:
        try:
            return connect(f"ws://127.0.0.1:{port}", subprotocols=[Subprotocol("foxglove.sdk.v1")])
        except ConnectionRefusedError:
            assert time.monotonic() < until
            time.sleep(0.05)


def text_message(connection: ClientConnection, kind: str) -> dict:
    """Wait for the server's message of a kind."""
    while True:
        message = connection.recv(timeout=LIMIT_S)
        if isinstance(message, str) and json.loads(message)["op"] == kind:
            return dict(json.loads(message))


def binary_messages(connection: ClientConnection, kind: int) -> Iterator[bytes]:
    while True:
        message = connection.recv(timeout=LIMIT_S)
        if isinstance(message, bytes) and message[0] == kind:
            yield message


def playback_request(command: int, seek_ns: int) -> bytes:
    return struct.pack("<BBfBQI2s", PLAYBACK_REQUEST, command, 1.0, 1, seek_ns, 2, b"r1")


def test_a_viewer_gets_the_messages_as_they_are_stored_and_can_jump(port: int) -> None:
    with viewer(port) as connection:
        info = text_message(connection, "serverInfo")
        assert sorted(info["capabilities"]) == ["playbackControl", "time"]  # nothing comes from a viewer
        channels = {channel["topic"]: channel for channel in text_message(connection, "advertise")["channels"]}
        assert set(channels) == {"/episode", "/camera/image_raw", "/silent"}
        channel = channels["/episode"]
        kinds = (channel["encoding"], channel["schemaName"], channel["schemaEncoding"])
        assert kinds == ("cdr", "std_msgs/msg/String", "ros2msg")
        wanted = {"op": "subscribe", "subscriptions": [{"id": 7, "channelId": channel["id"]}]}
        connection.send(json.dumps(wanted))
        messages = binary_messages(connection, MESSAGE)
        for number in range(3):
            message = next(messages)
            subscription, stamp = struct.unpack_from("<IQ", message, 1)
            assert (subscription, stamp) == (7, START + number * 10_000_000 + 300)
            assert message[13:] == string(f"message {number}")
        connection.send(playback_request(PAUSE, START + 505_000_000))
        state = next(binary_messages(connection, PLAYBACK_STATE))
        _, time_ns, speed, did_seek = struct.unpack_from("<BQfB", state, 1)
        assert (time_ns, speed, did_seek) == (START + 505_000_000, 1.0, 1)
        connection.send(playback_request(PLAY, START + 975_000_000))
        texts = []
        while string("message 99") not in texts:
            texts.append(next(messages)[13:])
        assert texts[-3:] == [string(f"message {number}") for number in (97, 98, 99)]
        assert string("message 80") not in texts


def test_the_port_is_open_on_loopback_alone_and_a_taken_one_is_one_sentence(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with viewer(port):
        pass
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    assert [place for place in listening if place.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
    everywhere = Path("/proc/net/tcp6").read_text()
    assert f":{port:04X} 0" not in everywhere
    assert cli.main(["play", str(tmp_path / "bag"), "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert f"port {port} of 127.0.0.1 cannot be used" in error
    assert error.count("\n") == 1


def test_a_jump_sends_the_newest_message_of_each_topic_first(tmp_path: Path) -> None:
    now, sent = [0.0], list[RecordedMessage]()
    with BagReader(write_bag(tmp_path / "bag")) as bag:
        player = BagPlayer(bag, sent.append, lambda: now[0])
        player.play_due()
        assert sent == []  # it waits for a viewer
        player.begin()
        now[0] = 0.095
        player.play_due()
        assert [message.log_time_ns for message in sent] == [
            START + number * 10_000_000 + late for number in range(10) for late in (300, 500)
        ]
        sent.clear()
        player.request(False, seek_ns=START + 55_000_000)
        player.play_due()
        assert [(message.topic, message.log_time_ns - START) for message in sent] == [
            ("/episode", 50_000_300),
            ("/camera/image_raw", 50_000_500),
        ]
        now[0] = 5.0
        sent.clear()
        player.play_due()
        assert sent == []  # it pauses
        player.request(True, speed=2.0)
        now[0] = 5.01
        assert player.play_due() == pytest.approx((80_000_300 - 75_000_000) * 1e-9 / 2)
        assert [message.log_time_ns - START for message in sent] == [
            60_000_300,
            60_000_500,
            70_000_300,
            70_000_500,
        ]
        now[0] = 9.0
        player.play_due()
        assert player.position().ended
