"""Tests of recordings that are started, stopped and labelled while the graph runs, in a recorder's own process."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Process, TestNode
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from recorded_robot import PANDA, Publisher, names, state
from small_bags import write_bag
from std_srvs.srv import Trigger

from rlfp_ros.episode import Episode
from rlfp_ros.nodes import messages
from rlfp_ros.recording.bag_list import BagListing, RecorderState
from rlfp_ros.recording.labels import BagLabel, Label, label_closed_bag, read_label
from rlfp_ros.recording.metadata import custom_data
from rlfp_ros.recording.reader import BagReader

pytestmark = pytest.mark.graph

LIMIT_S = 60.0  # a loaded machine starts a node in 20 s


class Recorder:
    """A recorder that waits, and what one does with it."""

    def __init__(self, node: TestNode, start_node: Callable[..., Process], folder: Path, **parameters: Any) -> None:
        self.node, self.folder = node, folder
        self.robot = Publisher(node)
        self.states = node.listen(messages.RECORDER_STATE)
        self.listings = node.listen(messages.RECORDER_BAGS)
        self._triggers = {name: node.node.create_client(Trigger, f"recorder/{name}") for name in ("start", "stop")}
        self._set = node.node.create_client(SetParameters, "recorder/set_parameters")
        self.states.clear()  # of a recorder before
        self.listings.clear()
        self.process = start_node("recorder", {"directory": folder, "start": False, **parameters})
        node.spin_until(lambda: f"into {folder}" in self.process.output, LIMIT_S, "the recorder's first line")
        for client in (*self._triggers.values(), self._set):
            node.spin_until(client.service_is_ready)
        node.spin_until(lambda: self.states, what="recorder/state")

    def call(self, name: str) -> tuple[bool, str]:
        answer = self._answer(self._triggers[name].call_async(Trigger.Request()))
        return answer.success, answer.message

    def label(self, text: str) -> str:
        """Set the parameter `label`; returns the reason why it was refused, or ""."""
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=text)
        request = SetParameters.Request(parameters=[Parameter(name="label", value=value)])
        (result,) = self._answer(self._set.call_async(request)).results
        assert result.successful == (not result.reason)
        return str(result.reason)

    def _answer(self, future: Any) -> Any:
        self.node.spin_until(future.done)
        return future.result()

    @property
    def state(self) -> RecorderState:
        return RecorderState.from_json(self.states[-1].data)

    def listed(self, *expected: str) -> BagListing:
        """Wait until exactly these bags are listed."""

        def found() -> BagListing | None:
            listing = BagListing.from_json(self.listings[-1].data) if self.listings else None
            return listing if listing and sorted(bag.name for bag in listing.bags) == sorted(expected) else None

        listing: BagListing = self.node.spin_until(found, what=f"a list of {expected}")
        return listing

    def record(self, number: int) -> None:
        """Publish a joint state until it has arrived."""
        before = self.state.messages
        self.node.connected(self.robot.joint_states)
        self.robot.joint_states.publish(messages.joint_state_message(state(number), PANDA))
        self.node.spin_until(lambda: self.state.messages > before)


def test_bags_are_started_stopped_and_labelled_while_the_graph_runs(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    bags = tmp_path / "bags"
    recorder = Recorder(test_node, start_node, bags)
    assert not recorder.state.recording
    assert not bags.exists()  # nothing is made before it is asked for
    assert recorder.robot.joint_states.get_subscription_count() == 0  # and nothing is read
    assert recorder.call("stop") == (False, "nothing is being recorded")
    assert recorder.label('{"label": "success"}') == "there is no bag to label yet; record one first"

    assert recorder.call("start") == (True, "recording recording_0001")
    assert recorder.call("start") == (False, "recording_0001 is being recorded already; stop it first")
    recorder.record(1)
    assert (recorder.state.recording, recorder.state.bag, recorder.state.dropped) == (True, "recording_0001", 0)
    assert recorder.label(json.dumps({"label": "failure", "note": "it slipped"})) == ""
    test_node.spin_until(lambda: recorder.state.label == BagLabel(label=Label.FAILURE, note="it slipped"))
    recorder.record(2)
    success, message = recorder.call("stop")
    assert success
    assert message.startswith("recording_0001: ")
    assert not recorder.state.recording
    test_node.spin_until(lambda: recorder.robot.joint_states.get_subscription_count() == 0)
    assert recorder.label(json.dumps({"label": "success", "operator": "Ada"})) == ""

    assert recorder.call("start") == (True, "recording recording_0002")
    assert recorder.state.label is None
    recorder.record(3)
    assert recorder.label(json.dumps({"label": "discard", "bag": "recording_0001"})) == ""
    assert recorder.call("stop")[0]
    listing = recorder.listed("recording_0001", "recording_0002")
    assert [bag.label for bag in listing.bags] == [None, BagLabel(label=Label.DISCARD)]
    assert listing.bags[0].duration_s < 60.0
    assert recorder.process.stop() == 0
    for name, expected in {"recording_0001": [1.0, 2.0], "recording_0002": [3.0]}.items():
        with BagReader(bags / name) as bag:
            assert bag.complete
            assert names(bag) == expected
        assert "dropped" not in custom_data(bags / name)
    assert read_label(bags / "recording_0001") == BagLabel(label=Label.DISCARD)
    assert read_label(bags / "recording_0002") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "label is '', expected JSON such as"),
        ("[" * 3000, "expected JSON such as"),
        ("x" * 10_000_000, "label has 10000000 characters, expected at most 4000"),
        ('{"label": "great"}', "label: label is 'great', but it should be 'success', 'failure' or 'discard'"),
        ('{"label": "success", "note": "a\\u0007b"}', "has a control character or a line break"),
        (json.dumps({"label": "success", "note": "a" * 401}), "at most 400 characters"),
        ('{"label": "success", "bag": "../other"}', "holds no closed bag '../other'; choose one of the list"),
        ('{"label": "success", "bag": "/etc"}', "holds no closed bag '/etc'; choose one of the list"),
        ('{"label": "success", "path": "x"}', "label: path is not a known field"),
    ],
    ids=["empty", "brackets", "10 MB", "other", "control", "long", "relative", "absolute", "field"],
)
def test_a_wrong_label_is_one_sentence_and_changes_nothing(
    recorder_with_a_bag: Recorder, text: str, words: str
) -> None:
    recorder = recorder_with_a_bag
    reason = recorder.label(text)
    assert words in reason
    assert "\n" not in reason
    assert len(reason) < 500
    assert read_label(recorder.folder / "bag") == BagLabel(label=Label.SUCCESS)
    assert read_label(recorder.folder.parent / "other") is None


@pytest.fixture
def recorder_with_a_bag(test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path) -> Recorder:
    label_closed_bag(write_bag(tmp_path / "bags" / "bag", 3), BagLabel(label=Label.SUCCESS))
    write_bag(tmp_path / "other", 3)
    return Recorder(test_node, start_node, tmp_path / "bags")


def test_a_recording_of_the_launch_file_can_be_stopped_and_episodes_are_still_answered(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    bags = tmp_path / "bags"
    recorder = Recorder(test_node, start_node, bags, start=True)
    robot = recorder.robot
    robot.connected()
    robot.reset(0)
    recorder.record(1)
    finished = Episode(id=0, phase="finished", outcome={"success": True})
    robot.episode.publish(messages.episode_message(finished))
    test_node.spin_until(lambda: recorder.state.messages >= 3)
    assert recorder.call("stop")[0]
    robot.reset(1)  # waits for the answer, although nothing is recorded
    robot.episode.publish(messages.episode_message(Episode(id=1, phase="running")))
    test_node.spin_for(0.3)
    assert recorder.call("start") == (True, "recording recording_0001")
    recorder.record(2)
    robot.reset(2)  # a bag that a person began does not end with an episode
    recorder.record(3)
    assert recorder.call("stop")[0]
    listing = recorder.listed("episode_0000", "recording_0001")
    assert [bag.episodes for bag in listing.bags] == ["", "1 won"]
    assert recorder.process.stop() == 0
    with BagReader(bags / "recording_0001") as bag:
        assert names(bag) == [2.0, 3.0]
        phases = [json.loads(bag.decode(message).data)["phase"] for message in bag.messages({"/episode"})]
    assert phases == ["reset", "running", "reset"]  # the first two had been announced before it began


def test_a_killed_recorder_leaves_the_label_and_the_next_one_lists_the_bag(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    recorder = Recorder(test_node, start_node, tmp_path / "bags")
    recorder.call("start")
    recorder.record(1)
    assert recorder.label('{"label": "success", "note": "kept"}') == ""
    test_node.spin_until(lambda: recorder.state.label)
    os.kill(recorder.process.popen.pid, signal.SIGKILL)
    recorder.process.wait()
    again = Recorder(test_node, start_node, tmp_path / "bags")
    (bag,) = again.listed("recording_0001").bags
    assert bag.label == BagLabel(label=Label.SUCCESS, note="kept")


def test_a_full_disk_is_said_and_recording_starts_again_when_there_is_room(
    test_node: TestNode, start_node: Callable[..., Process], tmp_path: Path
) -> None:
    """The system limits the size of the recorder's files: a real failing write(2) in its own process."""
    bags = tmp_path / "bags"
    recorder = Recorder(test_node, start_node, bags)
    bags.write_text("no folder")
    success, message = recorder.call("start")
    assert not success
    assert "cannot be made" in message
    bags.unlink()
    assert recorder.call("start")[0]
    recorder.record(1)
    assert recorder.label('{"label": "success", "note": "kept"}') == ""
    test_node.spin_until(lambda: recorder.state.label)
    pid, nothing = recorder.process.popen.pid, resource.RLIM_INFINITY
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (300_000, nothing))

    def full() -> bool:
        recorder.robot.image.publish(messages.image_message(1, np.zeros((84, 84, 3), np.uint8), "camera"))
        test_node.spin_for(0.05)
        return "cannot write any more" in recorder.state.fault

    test_node.spin_until(full, LIMIT_S)
    assert not recorder.state.recording
    assert "\n" not in recorder.state.fault
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (nothing, nothing))
    assert recorder.call("start") == (True, "recording recording_0002")
    assert recorder.state.fault == ""
    recorder.record(5)
    assert recorder.call("stop")[0]
    assert recorder.process.stop() == 0
    assert names_in(bags / "recording_0001") == [1.0]
    assert read_label(bags / "recording_0001") == BagLabel(label=Label.SUCCESS, note="kept")
    assert names_in(bags / "recording_0002") == [5.0]


def names_in(folder: Path) -> list[float]:
    with BagReader(folder) as bag:
        return names(bag)
