"""Tests of the graph as data, and of both launchers."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from graph_run import BOTH, run_of

from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.graph import resolution
from rlfp_ros.graph.arguments import parse_arguments
from rlfp_ros.graph.cameras import ROS_CAMERAS
from rlfp_ros.graph.dds import dds_environment
from rlfp_ros.graph.description import Graph, OnExit, Resolved
from rlfp_ros.graph.node_process import node_command
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.graph.runner import Runner
from rlfp_ros.graph.sim import SIM
from rlfp_ros.perception.image_topics import camera_info_beside
from rlfp_ros.schema import ConfigurationError

ROOT = Path(__file__).resolve().parents[1]


def parameters(resolved: Resolved, name: str) -> dict[str, Any]:
    return next(process for process in resolved.processes if process.name == name).parameters


# --- what runs -------------------------------------------------------------------------------------------------------


def test_simulation_has_the_simulator_and_the_three_nodes_of_the_robot() -> None:
    names = [process.name for process in run_of(SIM).processes]
    assert names == ["simulator", "perception", "policy", "residual_controller"]


def test_real_arm_has_the_same_nodes_and_a_checklist_in_place_of_a_simulator() -> None:
    names = [process.name for process in run_of(REAL_ARM).processes]
    assert names == ["perception", "policy", "checklist", "residual_controller"]


@BOTH
def test_the_recorder_runs_only_if_a_folder_is_given(which: Graph) -> None:
    assert "recorder" not in [process.name for process in run_of(which).processes]
    recording = run_of(which, record="bags", record_per_episode=False)
    assert parameters(recording, "recorder") == {
        "directory": "bags",
        "per_episode": False,
        "use_sim_time": which is SIM,
    }


def test_simulator_waits_for_the_recorder_only_when_it_runs() -> None:
    assert parameters(run_of(SIM), "simulator")["wait_for"] == ["perception", "policy", "residual_controller"]
    assert "recorder" in parameters(run_of(SIM, record="bags"), "simulator")["wait_for"]


def test_real_arm_starts_disabled_and_simulation_enabled() -> None:
    assert parameters(run_of(REAL_ARM), "residual_controller")["start_enabled"] is False
    assert parameters(run_of(SIM), "residual_controller")["start_enabled"] is True


def test_the_real_arm_needs_a_heartbeat_unless_an_argument_turns_it_off() -> None:
    assert parameters(run_of(REAL_ARM), "residual_controller")["require_heartbeat"] is True


@pytest.mark.parametrize("overrides", [{}, {"lock_step": True}, {"real_time_factor": 0.5}])
def test_the_controller_ticks_on_joint_states_if_time_is_simulated(overrides: dict[str, Any]) -> None:
    assert parameters(run_of(SIM, **overrides), "residual_controller")["tick_on"] == "joint_states"


def test_the_real_arm_is_enabled_only_after_the_checklist_and_the_twins_camera_is_at_the_bundles_pose() -> None:
    assert parameters(run_of(REAL_ARM), "residual_controller")["require_checklist"] is True
    assert parameters(run_of(REAL_ARM), "checklist")["extrinsics"] == ""
    mock = run_of(REAL_ARM, use_mock_hardware=True)
    assert parameters(mock, "checklist")["extrinsics"] == "bundle"
    given = run_of(REAL_ARM, extrinsics="place.yaml", step=True)
    for name in ("perception", "policy", "checklist", "residual_controller"):
        assert parameters(given, name)["extrinsics"] == "place.yaml"
    assert parameters(given, "residual_controller")["step_by_step"] is True


@pytest.mark.parametrize("camera", ROS_CAMERAS)
def test_camera_names_its_drivers_topics_and_an_explicit_topic_wins(camera: str) -> None:
    driver = ROS_CAMERAS[camera]
    topics = REAL_ARM.nodes[1].remappings(parse_arguments(REAL_ARM, {"camera": camera}))
    assert topics["camera/image_raw"] == driver
    assert topics["camera/image_raw/compressed"] == f"{driver}/compressed"
    assert topics["camera/camera_info"] == camera_info_beside(driver)
    topics = REAL_ARM.nodes[1].remappings(parse_arguments(REAL_ARM, {"camera": camera, "image_topic": "/wrist/rgb"}))
    assert topics["camera/image_raw"] == "/wrist/rgb"
    assert topics["camera/camera_info"] == "/wrist/camera_info"  # that of the chosen camera


def test_kind_of_the_images_reaches_perception() -> None:
    assert parameters(run_of(REAL_ARM, image_kind="rectified"), "perception")["image_kind"] == "rectified"


def arm_with_driver(folder: Path) -> Path:
    """The Panda's file with a driver's launch line."""
    driver = {
        "package": "vendor_bringup",
        "launch_file": "arm.launch.py",
        "source": "its README",
        "arguments": {"ip": "{robot_ip}", "gripper": "true"},
    }
    document = yaml.safe_load((ROOT / "config" / "arms" / "panda.yaml").read_text())
    document |= {"name": "panda_with_driver", "driver": driver}
    (folder / "panda.yaml").write_text(yaml.safe_dump(document))
    return folder / "panda.yaml"


def test_a_robots_address_starts_its_driver_in_a_ros_launch_and_our_runner_explains_how(tmp_path: Path) -> None:
    resolved = run_of(REAL_ARM, arm=str(arm_with_driver(tmp_path)), robot_ip="172.16.0.2", domain_id=7)
    (included,) = resolved.included
    assert (included.package, included.launch_file) == ("vendor_bringup", "arm.launch.py")
    assert included.arguments == {"ip": "172.16.0.2", "gripper": "true"}
    assert included.environment == dds_environment("lan", "7")
    assert included.environment["ROS_DOMAIN_ID"] == "7"
    with pytest.raises(ConfigurationError, match=r"ros2 launch vendor_bringup arm.*ip:=172.16.0.2"):
        Runner(resolved)
    with pytest.raises(ConfigurationError, match="use_mock_hardware is true; leave robot_ip empty"):
        run_of(REAL_ARM, arm=str(tmp_path / "panda.yaml"), robot_ip="10.0.0.1", use_mock_hardware=True)


def arms_with_a_driver() -> list[str]:
    """The shipped arms whose vendor's launch line is known and takes an address."""
    files = sorted((ROOT / "config" / "arms").glob("*.yaml"))
    return [path.stem for path in files if "driver" in yaml.safe_load(path.read_text())]


@pytest.mark.parametrize("arm", arms_with_a_driver())
def test_shipped_drivers_take_the_robots_address(arm: str) -> None:
    (included,) = run_of(REAL_ARM, arm=arm, robot_ip="10.0.0.7").included
    assert included.arguments["robot_ip"] == "10.0.0.7"
    assert (ROOT / "docs" / "how-to" / "hardware" / f"{arm}.md").read_text().count(included.launch_file) >= 1


def test_default_bundle_is_named_after_task_and_arm() -> None:
    assert parse_arguments(SIM, {"arm": "iiwa"})["bundle"] == "reach_iiwa"
    assert parse_arguments(SIM, {"arm": "iiwa", "bundle": "mine"})["bundle"] == "mine"


def test_the_simulator_gets_only_camera_settings_that_differ_from_the_bundle() -> None:
    assert not {"image_width", "image_height", "image_rate_hz"} & set(parameters(run_of(SIM), "simulator"))
    changed = parameters(run_of(SIM, image_size="640x480", rate=15), "simulator")
    assert (changed["image_width"], changed["image_height"], changed["image_rate_hz"]) == (640, 480, 15.0)
    assert parameters(run_of(SIM, image_size=128), "simulator")["image_height"] == 128


def test_real_arm_topics_are_remapped_to_the_drivers() -> None:
    resolved = run_of(
        REAL_ARM, image_topic="/wrist/color", controller_name="/ns/jtc", joint_states_topic="/franka/joints"
    )
    for process in resolved.processes:
        assert process.remappings["camera/image_raw"] == "/wrist/color"
        assert process.remappings["joint_states"] == "/franka/joints"
        assert process.remappings["joint_trajectory_controller/joint_trajectory"] == "/ns/jtc/joint_trajectory"


def test_forward_controller_gets_its_own_name_and_topic() -> None:
    resolved = run_of(REAL_ARM, command_interface="forward_position", controller_name="arm_position")
    assert parameters(resolved, "residual_controller")["output"] == "forward_position"
    assert resolved.processes[0].remappings["forward_position_controller/commands"] == "arm_position/commands"


def test_names_that_the_arm_already_has_are_not_remapped() -> None:
    assert all(process.remappings == {} for process in run_of(SIM).processes)
    assert "joint_states" not in run_of(REAL_ARM).processes[0].remappings


@BOTH
def test_every_topic_name_in_the_graph_is_relative(which: Graph) -> None:
    """A namespace moves the whole graph."""
    for process in run_of(which).processes:
        assert not [name for name in process.remappings if name.startswith("/")]
    assert {process.namespace for process in run_of(which, namespace="arm_1/").processes} == {"/arm_1"}


def test_simulator_ends_the_run_and_the_recorder_never_stops_a_real_arm() -> None:
    assert {process.name: process.on_exit for process in run_of(SIM).processes}["simulator"] is OnExit.FINISH
    on_exit = {process.name: process.on_exit for process in run_of(REAL_ARM, record="bags").processes}
    assert on_exit["recorder"] is OnExit.CONTINUE
    assert on_exit["residual_controller"] is OnExit.FAIL


def test_safety_controller_is_never_restarted_by_itself() -> None:
    for which in (SIM, REAL_ARM):
        controller = next(process for process in run_of(which).processes if process.name == "residual_controller")
        assert controller.respawn is None


# --- files that belong to the graph ----------------------------------------------------------------------------------


@BOTH
def test_parameter_file_speaks_of_nodes_and_parameters_that_exist(which: Graph) -> None:
    document = yaml.safe_load((ROOT / "config" / f"{which.name}.yaml").read_text())
    nodes = {node.executable for node in which.nodes}
    for name, content in document.items():
        assert name.removeprefix("/**/") in nodes
        assert set(content) == {"ros__parameters"}
    ControllerSettings(**document["/**/residual_controller"]["ros__parameters"])


def test_controller_yaml_interpolates_from_the_desired_state_and_names_the_arms_joints() -> None:
    from rlfp_ros.control.arm import load_arm

    for path in (ROOT / "config" / "controllers").glob("*.yaml"):
        settings = yaml.safe_load(path.read_text())["/**/joint_trajectory_controller"]["ros__parameters"]
        assert settings["interpolate_from_desired_state"] is True
        assert settings["allow_nonzero_velocity_at_trajectory_end"] is False
        arm = load_arm(path.stem)
        assert tuple(settings["joints"]) == arm.driver_names(arm.joint_names)


@BOTH
def test_own_parameters_win_over_the_graphs_file(which: Graph, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("/**/perception:\n  ros__parameters: {image_transport: raw}\n")
    for process in run_of(which, params_file=str(own)).processes:
        assert process.parameter_files == (ROOT / "config" / f"{which.name}.yaml", own)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "camera:\n  ros__parameters: {a: 1}\n",
            "camera is not a node of sim.launch.py; it has: simulator, perception",
        ),
        ("policy: {a: 1}\n", "policy has no ros__parameters"),
        ("- policy\n", "the file has no ros__parameters"),
        ("policy: [\n", "own.yaml"),
    ],
)
def test_wrong_own_parameters_are_refused_with_one_sentence(text: str, found: str, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(found)):
        run_of(SIM, params_file=str(own))


# --- the runner's command lines --------------------------------------------------------------------------------------


def test_command_line_carries_name_namespace_remappings_and_parameter_files() -> None:
    process = run_of(REAL_ARM, namespace="left", image_topic="/wrist/color").processes[0]
    command = node_command(process, Path("own.yaml"))
    assert command[command.index("-m") + 1] == "rlfp_ros.nodes.perception"
    for pair in ("__node:=perception", "__ns:=/left", "camera/image_raw:=/wrist/color"):
        assert command[command.index(pair) - 1] == "-r"
    files = [command[i + 1] for i, word in enumerate(command) if word == "--params-file"]
    assert files == [str(ROOT / "config" / "real_arm.yaml"), "own.yaml"], "later files win"
    assert command[-2:] == ["--log-level", "info"]


# --- launch/*.launch.py ----------------------------------------------------------------------------------------------


class Recorded:
    """Stands in for an action of `launch` or `launch_ros`: remembers what it was made of."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.arguments, self.options = arguments, options


@pytest.fixture
def launch_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The few names of `launch` that our files use, so that the launch files are held to the graph without it."""
    names = {
        "launch": ["LaunchContext", "LaunchDescription"],
        "launch.action": ["Action"],
        "launch.actions": [
            "DeclareLaunchArgument",
            "GroupAction",
            "IncludeLaunchDescription",
            "LogInfo",
            "OpaqueFunction",
            "SetEnvironmentVariable",
            "Shutdown",
        ],
        "launch.launch_description_sources": ["AnyLaunchDescriptionSource"],
        "launch.substitutions": ["PathJoinSubstitution"],
        "launch_ros": [],
        "launch_ros.actions": ["Node"],
        "launch_ros.substitutions": ["FindPackageShare"],
    }
    for module, classes in names.items():
        stand_in = types.ModuleType(module)
        for name in classes:
            setattr(stand_in, name, type(name, (Recorded,), {}))
        monkeypatch.setitem(sys.modules, module, stand_in)
    monkeypatch.delitem(sys.modules, "rlfp_ros.graph.ros2_launch", raising=False)


def load_launch_file(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"{name}_launch", ROOT / "launch" / f"{name}.launch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@BOTH
def test_launch_file_declares_the_arguments_and_starts_the_nodes_of_the_graph(
    which: Graph, launch_stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolution, "check_arguments", lambda *_: 0)  # no bundle needed here
    overrides = {"namespace": "left", "record": "bags", "log_level": "debug"}
    (entities,) = load_launch_file(which.name).generate_launch_description().arguments
    declared = [entity for entity in entities if type(entity).__name__ == "DeclareLaunchArgument"]
    assert [entity.arguments[0] for entity in declared] == [argument.name for argument in which.arguments]
    for entity, argument in zip(declared, which.arguments, strict=True):
        assert entity.options["default_value"] == argument.default
        assert entity.options["description"] == argument.description
        assert tuple(entity.options["choices"] or ()) == argument.choices

    values = {argument.name: argument.default for argument in which.arguments} | overrides
    context = types.SimpleNamespace(launch_configurations=values, argv=[f"{k}:={v}" for k, v in overrides.items()])
    actions = entities[-1].options["function"](context)
    expected = resolve(which, overrides, check=False).processes
    assert [action.options["name"] for action in actions] == [process.name for process in expected]
    for action, process in zip(actions, expected, strict=True):
        options = action.options
        assert options["package"] == "rlfp_ros"
        assert options["executable"] == process.executable
        assert options["namespace"] == process.namespace
        assert options["parameters"] == [*(str(path) for path in process.parameter_files), process.parameters]
        assert dict(options["remappings"]) == process.remappings
        assert options["additional_env"] == process.environment
        assert options["ros_arguments"] == ["--log-level", process.log_level]
        assert options["respawn"] is (process.respawn is not None)
        ends = process.on_exit is not OnExit.CONTINUE and process.respawn is None
        assert (options["on_exit"] is not None) is ends
        assert float(options["sigterm_timeout"]) + float(options["sigkill_timeout"]) < 3.0


def test_launch_file_includes_the_arms_driver(
    launch_stand_in: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resolution, "check_arguments", lambda *_: 0)
    (entities,) = load_launch_file("real_arm").generate_launch_description().arguments
    values = {argument.name: argument.default for argument in REAL_ARM.arguments}
    values |= {"arm": str(arm_with_driver(tmp_path)), "robot_ip": "10.0.0.2", "domain_id": "9"}
    context = types.SimpleNamespace(launch_configurations=values, argv=[])
    group = entities[-1].options["function"](context)[0]
    assert type(group).__name__ == "GroupAction"  # scopes what is set in it
    *variables, driver = group.arguments[0]
    assert {type(variable).__name__ for variable in variables} == {"SetEnvironmentVariable"}
    assert dict(variable.arguments for variable in variables) == dds_environment("lan", "9")
    assert type(driver).__name__ == "IncludeLaunchDescription"
    assert dict(driver.options["launch_arguments"]) == {"ip": "10.0.0.2", "gripper": "true"}
    (path,) = driver.arguments[0].arguments
    assert [path.arguments[0][0].arguments[0], *path.arguments[0][1:]] == ["vendor_bringup", "launch", "arm.launch.py"]


def test_the_launch_file_names_an_argument_without_effect(
    launch_stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolution, "check_arguments", lambda *_: 0)
    (entities,) = load_launch_file("sim").generate_launch_description().arguments
    values = {argument.name: argument.default for argument in SIM.arguments} | {"epsiodes": "3"}
    context = types.SimpleNamespace(launch_configurations=values, argv=["epsiodes:=3"])
    first = entities[-1].options["function"](context)[0]
    assert "sim.launch.py has no argument epsiodes" in first.options["msg"]


@BOTH
def test_launch_files_under_the_real_launch(which: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    why = "runs where ROS 2 is installed and sourced; the stand-in above holds the files to the graph elsewhere"
    launch = pytest.importorskip("launch", reason=why)
    node_action = pytest.importorskip("launch_ros.actions", reason=why).Node
    monkeypatch.setattr(resolution, "check_arguments", lambda *_: 0)
    monkeypatch.delitem(sys.modules, "rlfp_ros.graph.ros2_launch", raising=False)
    context = launch.LaunchContext()
    nodes = []
    for entity in load_launch_file(which.name).generate_launch_description().entities:
        nodes += [action for action in entity.execute(context) or [] if isinstance(action, node_action)]
    assert [node.node_executable for node in nodes] == [process.name for process in run_of(which).processes]
