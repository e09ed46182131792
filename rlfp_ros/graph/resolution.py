"""Resolves launch arguments to the processes that run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlfp_ros import paths, schema
from rlfp_ros.contract import load_bundle
from rlfp_ros.control.arm import Arm, find_cell, load_arm, read_cell
from rlfp_ros.control.trained_arm import choose_arm, trained_arm
from rlfp_ros.graph.arguments import image_size, parse_arguments
from rlfp_ros.graph.arm_drivers import check_driver
from rlfp_ros.graph.cameras import check_camera, starts_camera
from rlfp_ros.graph.dds import LARGE_IMAGE_BYTES, LARGE_SEGMENT_BYTES, dds_environment, environment
from rlfp_ros.graph.description import Arguments, Graph, Included, NodeProcess, Resolved
from rlfp_ros.perception.extrinsics import load_extrinsics
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.tasks.task import load_task


def resolve(graph: Graph, overrides: Mapping[str, Any], check: bool = True) -> Resolved:
    """Resolve launch arguments.

    `overrides` holds what differs from the defaults, as text or as Python values. With `check`, the bundle, arm and
    profile that the arguments name are loaded first, so that a mistake is one sentence here and not one from every
    node. Raises ConfigurationError.
    """
    arguments = parse_arguments(graph, in_cell(graph, overrides))
    image_bytes = check_arguments(graph, arguments) if check else 0
    share = paths.share_directory()
    own_parameters = _own_parameters(graph, arguments["params_file"])
    processes = []
    for node in graph.nodes:
        if not node.condition(arguments):
            continue
        large = node.publishes_images and image_bytes > LARGE_IMAGE_BYTES
        processes.append(
            NodeProcess(
                name=node.executable,
                executable=node.executable,
                namespace=("/" + arguments["namespace"].strip("/")) if arguments["namespace"].strip("/") else "",
                parameters=node.parameters(arguments),
                parameter_files=(share / "config" / f"{graph.name}.yaml", *own_parameters),
                remappings={name: target for name, target in node.remappings(arguments).items() if name != target},
                log_level=arguments["log_level"],
                environment=environment(arguments["transport"], arguments["domain_id"], large),
                on_exit=node.on_exit,
                respawn=node.respawn,
            )
        )
    return Resolved(graph, arguments, tuple(processes), _drivers(graph, arguments))


def in_cell(graph: Graph, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides with what the file of the cell gives: the arm, the camera's place, and launch arguments.

    Arguments that a user gave win over those of the cell.

    Raises
    ------
    ConfigurationError
        If the cell's file is wrong, or both `cell` and `arm` are given.
    """
    name = str(overrides.get("cell", "")).strip()
    if not name:
        return dict(overrides)
    if overrides.get("arm"):
        raise ConfigurationError(
            f"{graph.name}.launch.py: cell is {name!r} and arm is {overrides['arm']!r}; the cell names its arm, leave "
            "out arm"
        )
    path = find_cell(name).resolve()
    given = {"cell": str(path), "arm": str(path)}
    known = {argument.name for argument in graph.arguments}
    if "extrinsics" in known:  # the graph of a real arm
        launch = read_cell(path).launch
        own = [each for each in launch if each not in known - {"cell", "arm", "bundle"}]
        if own:
            raise ConfigurationError(
                f"{path}: launch.{own[0]} is not an argument that a cell may give; it may give: "
                f"{', '.join(sorted(known - {'cell', 'arm', 'bundle'}))}"
            )
        chosen = {**launch, **overrides}
        mock = str(chosen.get("use_mock_hardware", "")).lower() == "true"
        calibration = {} if mock else {"extrinsics": str(path)}
        if not mock and starts_camera(chosen):  # then the node camera publishes the cell's calibration
            calibration["camera_info_file"] = str(path)
        return calibration | chosen | given
    return dict(overrides) | given


def _own_parameters(graph: Graph, name: str) -> tuple[Path, ...]:
    """Return the user's parameter file, if given; its nodes must be the graph's. Nodes check the content."""
    if not name:
        return ()
    path = Path(name).expanduser().resolve()
    document = schema.read_yaml(path)
    known = [node.executable for node in graph.nodes]
    for key, content in document.items() if isinstance(document, dict) else [("the file", document)]:
        if not (isinstance(content, dict) and isinstance(content.get("ros__parameters"), dict)):
            raise ConfigurationError(f"{path}: {key} has no ros__parameters; write it as config/{graph.name}.yaml is")
        node = str(key).rpartition("/")[2]
        if node not in (*known, "*", "**"):
            raise ConfigurationError(
                f"{path}: {key} is not a node of {graph.name}.launch.py; it has: {', '.join(known)}"
            )
    return (path,)


def _drivers(graph: Graph, arguments: Arguments) -> tuple[Included, ...]:
    """Return the arm's driver, if its address was given."""
    address = arguments.get("robot_ip")
    if not address:
        return ()
    given = arguments["arm"]
    arm = load_arm(given) if given else trained_arm(load_bundle(arguments["bundle"]))
    if arguments["use_mock_hardware"] or arm.driver is None:
        why = "use_mock_hardware is true" if arguments["use_mock_hardware"] else f"{arm.origin}: no driver"
        raise ConfigurationError(
            f"{graph.name}.launch.py: robot_ip is {address!r}, but {why}; leave robot_ip empty, or add the driver's "
            "launch line there"
        )
    filled = {name: value.replace("{robot_ip}", address) for name, value in arm.driver.arguments.items()}
    surroundings = dds_environment(arguments["transport"], arguments["domain_id"])
    return (Included(arm.driver.package, arm.driver.launch_file, filled, surroundings),)


def _absolute(arm: Arm, given: str) -> str:
    """Return the arm for the nodes: a file by its absolute path, since nodes may run in another folder."""
    path = Path(given).expanduser()
    return given if given == arm.name and not path.is_file() else str(path.resolve())


def check_arguments(graph: Graph, arguments: dict[str, Any]) -> int:
    """Load bundle, arm and profile to check them; make `bundle` absolute. Returns the bytes of a camera image."""
    source = f"{graph.name}.launch.py"
    if "task" in arguments:
        load_task(arguments["task"])
    if arguments.get("use_mock_hardware"):
        paths.resolve(arguments["mock_room"], "sim/scenes", ".yaml")
    if "profile" in arguments:
        folder = "sim/scenes" if arguments["world"] == "mujoco" else "sim/randomization"
        paths.resolve(arguments["profile"], folder, ".yaml")
    if arguments["arm"]:
        arguments["arm"] = _absolute(load_arm(arguments["arm"]), arguments["arm"])
    bundle = load_bundle(arguments["bundle"])
    contract, arm = bundle.contract, choose_arm(bundle, arguments["arm"])
    _ = arm.urdf_path  # refused here, in one sentence, if its package is not installed
    if "task" in arguments and contract.task != arguments["task"]:
        raise ConfigurationError(
            f"{source}: task is {arguments['task']!r}, but {bundle.directory / 'bundle.yaml'}: task is "
            f"{contract.task!r}; give task:={contract.task} or another bundle"
        )
    if "driver" in arguments:
        check_driver(source, arguments, arm)
    arguments["bundle"] = str(bundle.directory.resolve())
    if arguments.get("extrinsics"):
        load_extrinsics(arguments["extrinsics"], contract.camera)
        if arguments["extrinsics"] != "bundle":
            arguments["extrinsics"] = str(Path(arguments["extrinsics"]).expanduser().resolve())
    width, height = image_size(arguments) or (contract.camera.width, contract.camera.height)
    image_bytes = 3 * width * height
    if "camera" in arguments:
        check_camera(arguments)
        if starts_camera(arguments):  # its images' size is not known before it is open
            image_bytes = max(image_bytes, LARGE_IMAGE_BYTES + 1)
    if image_bytes > LARGE_IMAGE_BYTES and any(node.publishes_images for node in graph.nodes):
        free = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
        if free < LARGE_SEGMENT_BYTES:
            raise ConfigurationError(
                f"{source}: /dev/shm has {free // 1_000_000} MB free, but images of {width}x{height} need "
                f"{LARGE_SEGMENT_BYTES // 1_000_000} MB there; enlarge it (docker run --shm-size=256m) "
                "or lower image_size"
            )
    return image_bytes
