"""The graph as data: which nodes, with which parameters, remappings and conditions. No rclpy, no launch.

`resolve()` is the one place that decides what runs. `ros2_launch.py` turns its answer into launch_ros actions (for
`launch/*.launch.py`), `runner.py` turns it into child processes (for `./rlfp launch`, demo and evaluate).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal

# Launch arguments after parsing: str, int, float or bool, as the argument's kind says.
Arguments = Mapping[str, Any]
Kind = Literal["text", "integer", "number", "flag"]

# A best-effort image needs room for itself and the one before it in Fast DDS's default shared-memory segment (512 KiB).
LARGE_IMAGE_BYTES = 200_000
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PROFILES = "FASTRTPS_DEFAULT_PROFILES_FILE"  # environment variable of Fast DDS
# What one participant with config/fastdds_large_images_*.xml takes of /dev/shm.
LARGE_SEGMENT_BYTES = 34_000_000


class OnExit(Enum):
    """What the end of a node means for the graph."""

    FINISH = "finish"  # exit code 0 is the graph's regular end, any other a failure
    FAIL = "fail"  # the graph cannot go on without it: any exit is a failure
    CONTINUE = "continue"  # said, and the graph goes on


@dataclass(frozen=True)
class Respawn:
    """Restart a node that died. Exit code 2 (a configuration error) is never tried again: it would fail again."""

    attempts: int = 5  # in a row; after that the node's `on_exit` applies
    delay_s: float = 1.0  # before the first restart
    factor: float = 2.0  # each further restart waits this much longer
    max_delay_s: float = 10.0
    healthy_s: float = 30.0  # a run of this length forgets the attempts before it

    def delay(self, attempt: int) -> float:
        """Seconds to wait before restart number `attempt`, counted from 1."""
        return min(self.delay_s * self.factor ** (attempt - 1), self.max_delay_s)


@dataclass(frozen=True)
class Argument:
    """A launch argument, `name:=value` on the command line."""

    name: str
    default: str  # may name other arguments in braces: "{task}_{arm}"
    description: str  # with unit and range where it has them
    choices: tuple[str, ...] = ()
    kind: Kind = "text"
    minimum: float | None = None
    maximum: float | None = None
    pattern: str | None = None  # a whole-match regular expression for text


@dataclass(frozen=True)
class Node:
    """One process of the graph. `parameters` and `remappings` are functions of the launch arguments."""

    executable: str  # rlfp_ros.nodes.<executable>, and the name of the node
    description: str
    parameters: Callable[[Arguments], dict[str, Any]] = lambda arguments: {}
    remappings: Callable[[Arguments], dict[str, str]] = lambda arguments: {}
    condition: Callable[[Arguments], bool] = lambda arguments: True
    on_exit: OnExit = OnExit.FAIL
    respawn: Respawn | None = None
    publishes_images: bool = False  # gets the large shared-memory segment when the images need it


@dataclass(frozen=True)
class Graph:
    """A launch file as data."""

    name: str  # launch/<name>.launch.py and config/<name>.yaml
    description: str
    arguments: tuple[Argument, ...]
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class NodeProcess:
    """A node with everything decided: what both launchers start."""

    name: str
    executable: str
    namespace: str  # "" or "/name"
    parameters: dict[str, Any]
    parameter_files: tuple[Path, ...]  # read before `parameters`, which win
    remappings: dict[str, str]
    log_level: str
    environment: dict[str, str]  # on top of the caller's
    on_exit: OnExit
    respawn: Respawn | None


@dataclass(frozen=True)
class Included:
    """A driver's own launch file, started beside the nodes."""

    package: str
    launch_file: str
    arguments: dict[str, str]
    environment: dict[str, str]  # on top of the caller's: the graph's DDS domain and transports


@dataclass(frozen=True)
class Resolved:
    """A graph with its arguments filled in."""

    graph: Graph
    arguments: dict[str, Any]
    processes: tuple[NodeProcess, ...]
    included: tuple[Included, ...] = ()


# --- arguments -------------------------------------------------------------------------------------------------------


def parse_assignments(words: Sequence[str], source: str) -> dict[str, str]:
    """`["task:=reach", ...]` as a dictionary. Raises ConfigurationError for a word that is no assignment."""
    from rlfp_ros.schema import ConfigurationError

    values = {}
    for word in words:
        name, assigned, value = word.partition(":=")
        if not assigned or not name:
            hint = word.replace("=", ":=", 1) if "=" in word else f"{word.lstrip('-')}:=VALUE"
            raise ConfigurationError(f"{source}: {word!r} is not of the form name:=value; write {hint}")
        values[name] = value
    return values


def parse_arguments(graph: Graph, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults and overrides, each as its kind says. Raises ConfigurationError naming what is possible."""
    from rlfp_ros.schema import ConfigurationError

    source = f"{graph.name}.launch.py"
    known = {argument.name: argument for argument in graph.arguments}
    unknown = [name for name in overrides if name not in known]
    if unknown:
        raise ConfigurationError(f"{source}: has no argument {', '.join(unknown)}; it has: {', '.join(known)}")
    given = {name: _text(value) for name, value in overrides.items()}
    texts = {name: given.get(name, argument.default) for name, argument in known.items()}
    for name, argument in known.items():
        if name not in given and "{" in argument.default:
            texts[name] = argument.default.format_map(texts)
    return {name: _parse(argument, texts[name], source) for name, argument in known.items()}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse(argument: Argument, text: str, source: str) -> Any:
    from rlfp_ros.schema import ConfigurationError

    where = f"{source}: {argument.name} is {text!r}"
    value: Any = text.strip()
    if argument.choices and value not in argument.choices:
        raise ConfigurationError(f"{where}; it can be: {', '.join(argument.choices)}")
    if argument.kind == "flag":
        if value.lower() not in ("true", "false"):
            raise ConfigurationError(f"{where}; it can be: true, false")
        return value.lower() == "true"
    if argument.kind in ("integer", "number"):
        try:
            value = int(value) if argument.kind == "integer" else float(value)
        except ValueError:
            raise ConfigurationError(f"{where}, expected {_range(argument)}") from None
        low = -float("inf") if argument.minimum is None else argument.minimum
        high = float("inf") if argument.maximum is None else argument.maximum
        if not low <= value <= high or value in (float("inf"), -float("inf")):
            raise ConfigurationError(f"{where}, expected {_range(argument)}")
    elif argument.pattern and not re.fullmatch(argument.pattern, value):
        raise ConfigurationError(f"{where}, expected {argument.description}")
    return value


def _range(argument: Argument) -> str:
    noun = "a whole number" if argument.kind == "integer" else "a number"
    if argument.minimum is not None and argument.maximum is not None:
        return f"{noun} from {argument.minimum:g} to {argument.maximum:g}"
    if argument.minimum is not None:
        return f"{noun} of at least {argument.minimum:g}"
    return noun


# --- from arguments to processes -------------------------------------------------------------------------------------


def resolve(graph: Graph, overrides: Mapping[str, Any], check: bool = True) -> Resolved:
    """What runs, for these launch arguments.

    `overrides` holds what differs from the defaults, as text or as Python values. With `check`, the bundle, arm and
    profile that the arguments name are loaded first, so that a mistake is one sentence here and not one from every
    node. Raises ConfigurationError.
    """
    from rlfp_ros import paths

    arguments = parse_arguments(graph, overrides)
    image_bytes = _check(graph, arguments) if check else 0
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


def _own_parameters(graph: Graph, name: str) -> tuple[Path, ...]:
    """The user's parameter file, if there is one; its nodes must be the graph's. Nodes check what is in it."""
    from rlfp_ros import schema
    from rlfp_ros.schema import ConfigurationError

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
            raise ConfigurationError(f"{path}: {key} is no node of {graph.name}.launch.py; it has: {', '.join(known)}")
    return (path,)


def _drivers(graph: Graph, arguments: Arguments) -> tuple[Included, ...]:
    """The arm's driver, where its address was given."""
    from rlfp_ros.control.arm import load_arm
    from rlfp_ros.schema import ConfigurationError

    address = arguments.get("robot_ip")
    if not address:
        return ()
    arm = load_arm(arguments["arm"])
    if arguments["use_mock_hardware"] or arm.driver is None:
        why = (
            "use_mock_hardware is true" if arguments["use_mock_hardware"] else f"config/arms/{arm.name}.yaml: no driver"
        )
        raise ConfigurationError(
            f"{graph.name}.launch.py: robot_ip is {address!r}, but {why}; leave robot_ip empty, or add the driver's "
            "launch line there"
        )
    filled = {name: value.replace("{robot_ip}", address) for name, value in arm.driver.arguments.items()}
    surroundings = dds_environment(arguments["transport"], arguments["domain_id"])
    return (Included(arm.driver.package, arm.driver.launch_file, filled, surroundings),)


def environment(transport: str, domain_id: str = "", large_images: bool = False) -> dict[str, str]:
    """Environment variables of one node, on top of the caller's: those of DDS, and one thread for each process.

    Seven nodes share two cores, and a spinning thread pool starves the others.
    """
    return {**dict.fromkeys(THREADS, "1"), **dds_environment(transport, domain_id, large_images)}


def dds_environment(transport: str, domain_id: str = "", large_images: bool = False) -> dict[str, str]:
    """Environment variables that put a process into the graph's domain, on its transports.

    `local` is shared memory alone: no UDP socket, and only participants that are set the same way see it. `lan` is
    shared memory and UDP, or the caller's choice where FASTDDS_BUILTIN_TRANSPORTS or FASTRTPS_DEFAULT_PROFILES_FILE is
    set.
    """
    from rlfp_ros import paths

    values = {}
    if transport == "local":
        values["FASTDDS_BUILTIN_TRANSPORTS"] = "SHM"
    if domain_id:
        values["ROS_DOMAIN_ID"] = domain_id
    if transport == "local" or not {"FASTDDS_BUILTIN_TRANSPORTS", PROFILES}.intersection(os.environ):
        name = f"fastdds_large_images_{transport}.xml" if large_images else f"fastdds_{transport}.xml"
        values[PROFILES] = str(paths.share_directory() / "config" / name)
    return values


def _check(graph: Graph, arguments: dict[str, Any]) -> int:
    """Load what the arguments name; makes `bundle` absolute. Returns the size of a camera image in bytes."""
    from rlfp_ros import paths
    from rlfp_ros.contract import load_bundle
    from rlfp_ros.control.arm import load_arm
    from rlfp_ros.schema import ConfigurationError

    source = f"{graph.name}.launch.py"
    arm = load_arm(arguments["arm"])
    _ = arm.urdf_path  # refused here, in one sentence, where its package is not installed
    if arguments.get("use_mock_hardware"):
        paths.resolve(arguments["mock_room"], "sim/scenes", ".yaml")
    if "profile" in arguments:
        folder = "sim/scenes" if arguments["world"] == "mujoco" else "sim/randomization"
        paths.resolve(arguments["profile"], folder, ".yaml")
    bundle = load_bundle(arguments["bundle"])
    contract = bundle.contract
    if contract.arm.name != arm.name:
        raise ConfigurationError(
            f"{source}: arm is {arm.name!r}, but {bundle.directory / 'bundle.yaml'}: arm.name is "
            f"{contract.arm.name!r}; give arm:={contract.arm.name} or another bundle"
        )
    if "task" in arguments and contract.task != arguments["task"]:
        raise ConfigurationError(
            f"{source}: task is {arguments['task']!r}, but {bundle.directory / 'bundle.yaml'}: task is "
            f"{contract.task!r}; give task:={contract.task} or another bundle"
        )
    arguments["bundle"] = str(bundle.directory.resolve())
    if arguments.get("extrinsics"):
        from rlfp_ros.perception.extrinsics import load_extrinsics

        load_extrinsics(arguments["extrinsics"], contract.camera)
        if arguments["extrinsics"] != "bundle":
            arguments["extrinsics"] = str(Path(arguments["extrinsics"]).expanduser().resolve())
    width, height = image_size(arguments) or (contract.camera.width, contract.camera.height)
    image_bytes = 3 * width * height
    if image_bytes > LARGE_IMAGE_BYTES and any(node.publishes_images for node in graph.nodes):
        free = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
        if free < LARGE_SEGMENT_BYTES:
            raise ConfigurationError(
                f"{source}: /dev/shm has {free // 1_000_000} MB free, but images of {width}x{height} need "
                f"{LARGE_SEGMENT_BYTES // 1_000_000} MB there; enlarge it (docker run --shm-size=256m) "
                "or lower image_size"
            )
    return image_bytes


def image_size(arguments: Arguments) -> tuple[int, int] | None:
    """(width, height) px that the `image_size` argument asks for; None: as the bundle says."""
    text = arguments.get("image_size", "bundle")
    if text == "bundle":
        return None
    width, _, height = text.partition("x")
    return int(width), int(height or width)


# --- the graphs ------------------------------------------------------------------------------------------------------

_COMMON = (
    Argument(
        "namespace", "", "a ROS namespace that the whole graph moves into, for example arm_1", pattern=r"[A-Za-z0-9_/]*"
    ),
    Argument(
        "transport",
        "lan",
        "lan: DDS over shared memory and UDP, seen by RViz, `ros2 topic` and other machines; "
        "local: shared memory alone, opens no network socket and is seen by this graph only",
        choices=("lan", "local"),
    ),
    Argument(
        "domain_id",
        "",
        "the ROS_DOMAIN_ID of the graph, 0 to 101; empty: the environment's",
        pattern=r"(\d|\d\d|10[01])?",
    ),
    Argument(
        "params_file",
        "",
        "a YAML file with more node parameters, written as config/sim.yaml is; it wins over that file, and launch "
        "arguments win over both; empty: none",
    ),
    Argument(
        "log_level", "info", "the least severe log message shown", choices=("debug", "info", "warn", "error", "fatal")
    ),
)

_RECORD = (
    Argument("record", "", "a folder to write rosbag2 (MCAP) recordings into; empty: record nothing"),
    Argument("record_per_episode", "true", "one bag for each episode (true) or one for the run (false)", kind="flag"),
)

_BUNDLE = Argument(
    "bundle",
    "{task}_{arm}",
    "the policy bundle: a folder, or the name of one in models/ (its default is made of task and arm)",
)

_ARM = Argument("arm", "panda", "the arm: the name of a file in config/arms/ without .yaml, or a path")


def _waited_for(arguments: Arguments) -> list[str]:
    """The nodes whose answer the simulator awaits before an episode."""
    waited_for = ["policy", "residual_controller"]
    waited_for += ["recorder"] if arguments["record"] else []
    return waited_for + (["observer"] if arguments["observed"] else [])


def _simulator(arguments: Arguments) -> dict[str, Any]:
    parameters = {
        "task": arguments["task"],
        "arm": arguments["arm"],
        "bundle": arguments["bundle"],
        "profile": arguments["profile"],
        "world": arguments["world"],
        "seed": arguments["seed"],
        "episodes": arguments["episodes"],
        "real_time_factor": arguments["real_time_factor"],
        "lock_step": arguments["lock_step"],
        "wait_for": _waited_for(arguments),
    }
    size = image_size(arguments)
    if size:
        parameters["image_width"], parameters["image_height"] = size
    if arguments["rate"]:
        parameters["image_rate_hz"] = arguments["rate"]
    return parameters


def _of_bundle(arguments: Arguments) -> dict[str, Any]:
    return {"bundle": arguments["bundle"], "use_sim_time": arguments["use_sim_time"]}


# The nodes of both graphs, as the simulated one has them.
_PERCEPTION = Node("perception", "camera images to feature points", parameters=_of_bundle)
_POLICY = Node("policy", "features and joints to the residual motion", parameters=_of_bundle)
_CONTROLLER = Node("residual_controller", "base controller and residual, inside every limit, to the arm's command")
_RECORDER = Node(
    "recorder",
    "rosbag2 recordings",
    parameters=lambda a: {
        "directory": a["record"],
        "per_episode": a["record_per_episode"],
        "use_sim_time": a["use_sim_time"],
    },
    condition=lambda a: bool(a["record"]),
)

SIM = Graph(
    name="sim",
    description="The simulated arm, driven from camera pixels: simulator, perception, policy and residual controller.",
    arguments=(
        Argument("task", "reach", "what the arm is to do", choices=("reach", "push", "lift", "place")),
        _ARM,
        _BUNDLE,
        Argument(
            "profile",
            "train",
            "how much is randomised: a name in sim/randomization/ or a path; with world:=mujoco a room in sim/scenes/",
        ),
        Argument("world", "pybullet", "which simulator; mujoco is the foreign one", choices=("pybullet", "mujoco")),
        Argument(
            "seed", "0", "the first episode's seed; each further episode takes the next", kind="integer", minimum=0
        ),
        Argument(
            "episodes",
            "0",
            "how many episodes to run before the graph ends; 0: until it is stopped",
            kind="integer",
            minimum=0,
        ),
        Argument(
            "image_size",
            "bundle",
            "the camera image's size in pixels, WIDTHxHEIGHT or one number for both; bundle: as the policy was trained",
            pattern=r"bundle|[1-9]\d{1,3}(x[1-9]\d{1,3})?",
        ),
        Argument(
            "rate",
            "0",
            "the camera's rate in Hz, a whole fraction of 240; 0: as the policy was trained",
            kind="number",
            minimum=0,
            maximum=240,
        ),
        Argument(
            "real_time_factor",
            "1.0",
            "simulated seconds for each second of wall time, 0.01 to 10; lock_step ignores it",
            kind="number",
            minimum=0.01,
            maximum=10,
        ),
        Argument(
            "lock_step",
            "false",
            "true: simulator and controller wait for each other, as fast as they can and the same for the same seed",
            kind="flag",
        ),
        *_RECORD,
        Argument(
            "observed",
            "false",
            "true: episodes also wait for the observer that `./rlfp demo` and `./rlfp evaluate --graph` run",
            kind="flag",
        ),
        Argument("use_sim_time", "true", "the nodes' clocks follow the simulator's /clock", kind="flag"),
        *_COMMON,
    ),
    nodes=(
        Node(
            "simulator",
            "PyBullet: camera, joints and the arm's trajectory controller",
            parameters=_simulator,
            on_exit=OnExit.FINISH,
            publishes_images=True,
        ),
        _PERCEPTION,
        _POLICY,
        replace(
            _CONTROLLER,
            parameters=lambda a: {
                "bundle": a["bundle"],
                "arm": a["arm"],
                # On a busy machine simulated time falls behind: the controller follows it, tick by tick.
                "tick_on": "joint_states",
                "start_enabled": True,
                "use_sim_time": a["use_sim_time"],
            },
        ),
        _RECORDER,
    ),
)


@dataclass(frozen=True)
class Camera:
    """What a camera's driver calls its topics when it is started as docs/hardware/ says."""

    image_topic: str
    camera_info_topic: str


CAMERAS = {
    "realsense": Camera("camera/camera/color/image_raw", "camera/camera/color/camera_info"),
    "usb_cam": Camera("image_raw", "camera_info"),
    "v4l2": Camera("image_raw", "camera_info"),
    "custom": Camera("camera/image_raw", "camera/camera_info"),
}


def _real_topics(arguments: Arguments) -> dict[str, str]:
    """From the graph's own topic names to the drivers'."""
    controller = arguments["controller_name"]
    gripper = arguments["gripper_controller_name"]
    camera = CAMERAS[arguments["camera"]]
    image = arguments["image_topic"] or camera.image_topic
    return {
        "camera/image_raw": image,
        "camera/image_raw/compressed": f"{image}/compressed",
        "camera/camera_info": arguments["camera_info_topic"] or camera.camera_info_topic,
        "joint_states": arguments["joint_states_topic"],
        "joint_trajectory_controller/joint_trajectory": f"{controller}/joint_trajectory",
        "forward_position_controller/commands": f"{controller}/commands",
        "forward_velocity_controller/commands": f"{controller}/commands",
        "gripper_controller/joint_trajectory": f"{gripper}/joint_trajectory",
    }


_TOPIC = r"[A-Za-z~/][A-Za-z0-9_/]*"


def _extrinsics(arguments: Arguments) -> str:
    """The twin's camera is set up where the bundle says, as well as its room can; a real one's place is measured."""
    return str(arguments["extrinsics"] or ("bundle" if arguments["use_mock_hardware"] else ""))


REAL_ARM = Graph(
    name="real_arm",
    description="A real arm and camera, driven by the same perception, policy and controller. Starts DISABLED.",
    arguments=(
        _ARM,
        Argument(
            "bundle",
            "reach_{arm}",
            "the policy bundle: a folder, or the name of one in models/ (its default is made of arm)",
        ),
        Argument(
            "robot_ip",
            "",
            "the robot's address: starts its driver too, with the launch line in config/arms/ (ROS 2 must be "
            "installed); empty: the driver runs already",
            pattern=r"[A-Za-z0-9_.:-]*",
        ),
        Argument(
            "camera", "custom", "the camera's driver, which names its topics (docs/hardware/)", choices=tuple(CAMERAS)
        ),
        Argument(
            "image_topic",
            "",
            "the camera driver's image topic; its compressed one is taken as well; empty: as camera says",
            pattern=f"({_TOPIC})?",
        ),
        Argument(
            "camera_info_topic",
            "",
            "the camera driver's camera_info topic; empty: as camera says",
            pattern=f"({_TOPIC})?",
        ),
        Argument(
            "extrinsics",
            "",
            "the camera's calibrated place: a file that `./rlfp calibrate extrinsics` wrote, or bundle: it stands as "
            "the bundle says; empty: not known, and the arm is not enabled",
        ),
        Argument("joint_states_topic", "joint_states", "the topic with the arm's measured joints", pattern=_TOPIC),
        Argument(
            "command_interface",
            "joint_trajectory",
            "what the arm's controller takes; only joint_trajectory stops the arm by itself when the command ends",
            choices=("joint_trajectory", "forward_position", "forward_velocity"),
        ),
        Argument(
            "controller_name",
            "{command_interface}_controller",
            "the ros2_control controller of the arm (its default is made of command_interface)",
            pattern=_TOPIC,
        ),
        Argument(
            "gripper_controller_name",
            "gripper_controller",
            "the ros2_control joint trajectory controller of the gripper",
            pattern=_TOPIC,
        ),
        Argument(
            "use_mock_hardware",
            "false",
            "true: start arm_twin, a MuJoCo arm and camera with the same topics, in place of hardware",
            kind="flag",
        ),
        Argument("mock_room", "twin_near", "where the twin stands: the name of a file in sim/scenes/, or a path"),
        Argument(
            "mock_seed", "0", "the twin's first episode; each further one takes the next", kind="integer", minimum=0
        ),
        Argument(
            "mock_episodes",
            "0",
            "how many episodes the twin plays before the graph ends; 0: until it is stopped",
            kind="integer",
            minimum=0,
        ),
        Argument(
            "observed",
            "false",
            "true: the twin's episodes also wait for the observer that `./rlfp demo --hardware mock` runs",
            kind="flag",
        ),
        Argument("dry_run", "false", "true: compute and log every command and send none to the arm", kind="flag"),
        Argument(
            "step",
            "false",
            "true: enabled, the policy acts once for each call of residual_controller/step",
            kind="flag",
        ),
        Argument(
            "require_heartbeat",
            "true",
            "true: stop the arm when operator/heartbeat is silent; false: for a bench test only",
            kind="flag",
        ),
        *_RECORD,
        Argument("use_sim_time", "false", "true only when a bag or a simulator publishes /clock", kind="flag"),
        *_COMMON,
    ),
    nodes=(
        Node(
            "arm_twin",
            "MuJoCo: a second simulator with a real arm's and camera's topics (use_mock_hardware:=true)",
            parameters=lambda a: {
                "bundle": a["bundle"],
                "arm": a["arm"],
                "room": a["mock_room"],
                "seed": a["mock_seed"],
                "episodes": a["mock_episodes"],
                "wait_for": _waited_for(a),
            },
            remappings=_real_topics,
            condition=lambda a: bool(a["use_mock_hardware"]),
            on_exit=OnExit.FINISH,
            publishes_images=True,
        ),
        replace(
            _PERCEPTION,
            parameters=lambda a: {
                "bundle": a["bundle"],
                "extrinsics": _extrinsics(a),
                "use_sim_time": a["use_sim_time"],
            },
            remappings=_real_topics,
            # The controller holds the arm while perception or policy is away, so both may come back.
            respawn=Respawn(),
        ),
        replace(
            _POLICY,
            parameters=lambda a: {
                "bundle": a["bundle"],
                "arm": a["arm"],
                "extrinsics": _extrinsics(a),
                "use_sim_time": a["use_sim_time"],
            },
            remappings=_real_topics,
            respawn=Respawn(),
        ),
        Node(
            "checklist",
            "what the drivers send against what the policy needs; the arm is enabled only where all of it fits",
            parameters=lambda a: {
                "bundle": a["bundle"],
                "arm": a["arm"],
                "extrinsics": _extrinsics(a),
                "output": a["command_interface"],
                "require_heartbeat": a["require_heartbeat"],
                "use_sim_time": a["use_sim_time"],
            },
            remappings=_real_topics,
            respawn=Respawn(),
        ),
        replace(
            _CONTROLLER,
            parameters=lambda a: {
                "bundle": a["bundle"],
                "arm": a["arm"],
                "tick_on": "timer",
                "start_enabled": False,
                "output": a["command_interface"],
                "dry_run": a["dry_run"],
                "step_by_step": a["step"],
                "require_checklist": True,
                "extrinsics": _extrinsics(a),
                "require_heartbeat": a["require_heartbeat"],
                "use_sim_time": a["use_sim_time"],
            },
            remappings=_real_topics,
            # Never restarted by itself: a person looks at the arm first.
        ),
        replace(
            _RECORDER,
            remappings=_real_topics,
            on_exit=OnExit.CONTINUE,  # a full disk must not stop an arm that moves
            respawn=Respawn(attempts=2),
        ),
    ),
)

GRAPHS = {graph.name: graph for graph in (SIM, REAL_ARM)}


def find_graph(name: str) -> Graph:
    """The graph of `sim`, `sim.launch.py` or `launch/sim.launch.py`. Raises ConfigurationError listing what exists."""
    from rlfp_ros.schema import ConfigurationError

    graph = GRAPHS.get(Path(name).name.removesuffix(".launch.py"))
    if graph is None:
        files = ", ".join(f"{graph}.launch.py" for graph in GRAPHS)
        raise ConfigurationError(f"{name}: no such launch file; there is: {files}")
    return graph


def describe(graph: Graph) -> str:
    """Return a graph's nodes and launch arguments as text."""
    lines = [graph.description, "", "Nodes:"]
    lines += [f"  {node.executable:<20} {node.description}" for node in graph.nodes]
    lines += ["", "Arguments (name:=value):"]
    for argument in graph.arguments:
        lines.append(f"  {argument.name}:={argument.default}")
        lines.append(
            f"      {argument.description}" + (f" [{' | '.join(argument.choices)}]" if argument.choices else "")
        )
    return "\n".join(lines)
