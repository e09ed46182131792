"""Arguments and nodes that both graphs have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rlfp_ros.graph.description import Argument, Arguments, Node, OnExit, Respawn

COMMON = (
    Argument(
        "namespace", "", "a ROS namespace that the whole graph moves into, for example arm_1", pattern=r"[A-Za-z0-9_/]*"
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

_TRANSPORT = Argument(
    "transport",
    "lan",
    "lan: DDS over shared memory and UDP, seen by RViz, `ros2 topic` and other machines; host: the same with UDP on "
    "the loopback interface alone, seen by RViz and `ros2 topic` on this computer; local: shared memory alone, opens "
    "no network socket and is seen by this graph only",
    choices=("lan", "host", "local"),
)
REAL_ARM_TRANSPORT = _TRANSPORT  # the arm's driver may run on another computer
SIM_TRANSPORT = replace(_TRANSPORT, default="host")

RECORD = (
    Argument(
        "record",
        "",
        "a folder to write rosbag2 (MCAP) recordings into, from the start; empty: record nothing, or with "
        "operator:=true what is started on the operator's page, into the folder bags",
    ),
    Argument("record_per_episode", "true", "one bag for each episode (true) or one for the run (false)", kind="flag"),
)

OPERATE = (
    Argument(
        "operator",
        "false",
        "true: serve the operator's page on this computer; the arm then needs the page's heartbeat",
        kind="flag",
    ),
    Argument(
        "operator_port",
        "8460",
        "TCP port of the operator's page, on 127.0.0.1; 0: any free one",
        kind="integer",
        minimum=0,
        maximum=65535,
    ),
)

BASE = (
    Argument(
        "base_controller",
        "",
        "a base controller that moves the arm alone, without the policy and without episodes, such as excite; "
        "`./rlfp plugins` lists them; empty: the bundle's, with the policy",
        pattern=r"[A-Za-z0-9_.-]*",
    ),
    Argument(
        "base_parameters",
        "",
        "its parameters, such as '{duration_s: 30, amplitude_rad: 0.1}'; empty: their defaults",
    ),
)

ARM = Argument(
    "arm",
    "",
    "the arm: a name in config/arms/ or a YAML file, with limits that are at most training's; "
    "empty: the copy that the bundle carries",
)


CELL = Argument(
    "cell",
    "",
    "the cell that the arm stands in, instead of arm: a name in cells/ or a YAML file; a bundle that was trained for "
    "another cell is refused; empty: none",
)


def waited_for(arguments: Arguments) -> list[str]:
    """Return the nodes whose answer the simulator awaits before an episode."""
    waited_for = ["perception", "policy", "residual_controller"]
    waited_for += ["recorder"] if arguments["record"] else []
    return waited_for + (["observer"] if arguments["observed"] else [])


def base_of(arguments: Arguments) -> dict[str, Any]:
    """Return the controller's parameters for the base controller that the arguments choose."""
    return {name: arguments[name] for name in ("base_controller", "base_parameters") if arguments[name]}


def _of_bundle(arguments: Arguments) -> dict[str, Any]:
    return {"bundle": arguments["bundle"], "use_sim_time": arguments["use_sim_time"]}


# The nodes of both graphs, as the simulated one has them.
PERCEPTION = Node("perception", "camera images to feature points", parameters=_of_bundle)
POLICY = Node("policy", "features and joints to the residual motion", parameters=_of_bundle)
CONTROLLER = Node("residual_controller", "base controller and residual, inside every limit, to the arm's command")
OPERATOR = Node(
    "operator",
    "the operator's page: state, STOP, checklist, commands and camera image (operator:=true)",
    parameters=lambda a: {"port": a["operator_port"], "use_sim_time": a["use_sim_time"]},
    condition=lambda a: bool(a["operator"]),
    on_exit=OnExit.CONTINUE,  # without its heartbeat the controller stops the arm
    respawn=Respawn(),
)
RECORDER = Node(
    "recorder",
    "rosbag2 recordings",
    parameters=lambda a: {
        **({"directory": a["record"]} if a["record"] else {"start": False}),
        "per_episode": a["record_per_episode"],
        "use_sim_time": a["use_sim_time"],
    },
    condition=lambda a: bool(a["record"] or a["operator"]),
)
