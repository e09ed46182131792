"""Tests of the graph's transports, and of wrong arguments, which give one sentence."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from graph_run import BOTH, run_of

from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.safety.ages import LATE
from rlfp_ros.graph.arguments import parse_arguments, parse_assignments
from rlfp_ros.graph.catalogue import find_graph
from rlfp_ros.graph.dds import environment
from rlfp_ros.graph.description import Graph
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.graph.sim import SIM
from rlfp_ros.schema import ConfigurationError

# --- transport -------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_choice_of_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_choice_of_the_callers")
def test_local_transport_is_shared_memory_alone_for_participants_without_the_profile_too() -> None:
    assert run_of(SIM, transport="local").processes[0].environment["FASTDDS_BUILTIN_TRANSPORTS"] == "SHM"
    assert "FASTDDS_BUILTIN_TRANSPORTS" not in run_of(SIM).processes[0].environment


@pytest.mark.usefixtures("no_choice_of_the_callers")
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("transport", ["local", "host", "lan"])
def test_the_profile_of_every_transport_states_its_purpose(transport: str, large: bool) -> None:
    profile = Path(environment(transport, large_images=large)["FASTRTPS_DEFAULT_PROFILES_FILE"])
    (shared, *others) = ElementTree.parse(profile).findall(".//{*}transport_descriptor")
    assert shared.findtext("{*}type") == "SHM"
    assert [other.findtext("{*}type") for other in others] == ([] if transport == "local" else ["UDPv4"])
    loopback = [address.text for other in others for address in other.findall("{*}interfaceWhiteList/{*}address")]
    assert loopback == (["127.0.0.1"] if transport == "host" else [])
    assert shared.findtext("{*}segment_size") == ("33554432" if large else None)
    # Joint states may wait behind it: not so long that the arm slows down.
    timeout_s = float(shared.findtext("{*}healthy_check_timeout_ms", "")) * 1e-3
    assert timeout_s < LATE * ControllerSettings().joint_state_timeout_s


@pytest.mark.usefixtures("no_choice_of_the_callers")
@pytest.mark.parametrize("name", ["FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS"])
def test_lan_takes_the_callers_own_choice_of_transports(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "theirs")
    assert name not in environment("lan")
    assert "FASTRTPS_DEFAULT_PROFILES_FILE" not in environment("lan")
    assert environment("local")["FASTRTPS_DEFAULT_PROFILES_FILE"].endswith("fastdds_local.xml")


def test_domain_id_reaches_every_node_and_every_node_has_one_thread() -> None:
    for process in run_of(SIM, domain_id=42).processes:
        assert process.environment["ROS_DOMAIN_ID"] == "42"
        assert process.environment["OMP_NUM_THREADS"] == "1"


# --- bad input: one sentence that says what exists -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"epsiodes": "5"}, "sim.launch.py: has no argument epsiodes; it has: task, arm"),
        ({"world": "gazebo"}, "sim.launch.py: world is 'gazebo'; it can be: pybullet, mujoco"),
        ({"transport": "wifi"}, "transport is 'wifi'; it can be: lan, host, local"),
        ({"episodes": "many"}, "episodes is 'many', expected a whole number of at least 0"),
        ({"episodes": "-1"}, "episodes is '-1', expected a whole number of at least 0"),
        ({"real_time_factor": "0"}, "real_time_factor is '0', expected a number from 0.01 to 10"),
        ({"rate": "nan"}, "rate is 'nan', expected a number from 0 to 240"),
        ({"lock_step": "yes"}, "lock_step is 'yes'; it can be: true, false"),
        ({"image_size": "84x"}, "image_size is '84x', expected the camera image's size in pixels"),
        ({"domain_id": "500"}, "domain_id is '500', expected the ROS_DOMAIN_ID of the graph, 0 to 101"),
        ({"namespace": "a b"}, "namespace is 'a b', expected a ROS namespace"),
    ],
)
def test_a_wrong_argument_is_refused_with_the_possible_values(overrides: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_arguments(SIM, overrides)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("word", "hint"), [("task=push", "write task:=push"), ("--task", "write task:=VALUE")])
def test_a_word_that_is_not_an_assignment_is_refused_with_the_right_form(word: str, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=hint):
        parse_assignments([word], "sim.launch.py")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"bundle": "no_such_bundle"}, "no_such_bundle"),
        ({"arm": "octopus"}, "config/arms/ has no 'octopus'; it has: "),
        ({"profile": "chaos"}, "sim/randomization/ has no 'chaos'; it has: harsh, none, train, validation"),
    ],
)
def test_files_and_names_in_arguments_are_checked_before_anything_starts(
    overrides: dict[str, str], expected: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve(SIM, overrides)
    assert expected in str(caught.value)


def test_extrinsics_outside_the_bundles_tolerance_are_refused_before_anything_starts(tmp_path: Path) -> None:
    from rlfp_ros.contract import load_bundle
    from rlfp_ros.perception.extrinsics import write_extrinsics

    place = load_bundle("reach_panda").contract.camera.T_base_camera.matrix()
    write_extrinsics(tmp_path / "near.yaml", place, "where it stood in training")
    assert resolve(REAL_ARM, {"extrinsics": str(tmp_path / "near.yaml")}).arguments["extrinsics"].startswith("/")
    place[0, 3] += 0.1
    write_extrinsics(tmp_path / "far.yaml", place, "10 cm off")
    with pytest.raises(ConfigurationError, match=r"far.yaml: T_base_camera is 0.100 m and 0.000 rad from the bundle's"):
        resolve(REAL_ARM, {"extrinsics": str(tmp_path / "far.yaml")})


def test_an_unknown_launch_file_lists_the_existing_ones() -> None:
    assert find_graph("launch/sim.launch.py") is SIM
    with pytest.raises(ConfigurationError, match=r"there is: sim\.launch\.py, real_arm\.launch\.py"):
        find_graph("simulation.launch.py")


@BOTH
def test_every_argument_has_a_description_and_a_default_that_passes_its_own_check(which: Graph) -> None:
    assert all(len(argument.description) > 20 for argument in which.arguments)
    parse_arguments(which, {})
    assert len({argument.name for argument in which.arguments}) == len(which.arguments)
