"""The simulated graph: `sim.launch.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rlfp_ros.graph.arguments import image_size
from rlfp_ros.graph.description import Argument, Arguments, Graph, Node, OnExit
from rlfp_ros.graph.parts import (
    ARM,
    BASE,
    CELL,
    COMMON,
    CONTROLLER,
    OPERATE,
    OPERATOR,
    PERCEPTION,
    POLICY,
    RECORD,
    RECORDER,
    SIM_TRANSPORT,
    base_of,
    waited_for,
)

_BUNDLE = Argument(
    "bundle",
    "{task}_{arm}",
    "the policy bundle: a folder, or the name of one in models/ (its default is made of task and arm)",
)


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
        "wait_for": waited_for(arguments),
        "judged": not arguments["base_controller"],
    }
    size = image_size(arguments)
    if size:
        parameters["image_width"], parameters["image_height"] = size
    if arguments["rate"]:
        parameters["image_rate_hz"] = arguments["rate"]
    return parameters


SIM = Graph(
    name="sim",
    description="The simulated arm, driven from camera pixels: simulator, perception, policy and residual controller.",
    arguments=(
        Argument("task", "reach", "the task; `./rlfp plugins` lists them"),
        ARM,
        CELL,
        _BUNDLE,
        Argument(
            "profile",
            "train",
            "how much is randomised: a name in sim/randomization/ or a path; with world:=mujoco a room in sim/scenes/",
        ),
        Argument("world", "pybullet", "which simulator; no training uses mujoco", choices=("pybullet", "mujoco")),
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
        *BASE,
        *RECORD,
        *OPERATE,
        Argument(
            "observed",
            "false",
            "true: episodes also wait for the observer that `./rlfp demo` and `./rlfp evaluate --graph` run",
            kind="flag",
        ),
        Argument("use_sim_time", "true", "the nodes' clocks follow the simulator's /clock", kind="flag"),
        SIM_TRANSPORT,
        *COMMON,
    ),
    nodes=(
        Node(
            "simulator",
            "PyBullet: camera, joints and the arm's trajectory controller",
            parameters=_simulator,
            on_exit=OnExit.FINISH,
            publishes_images=True,
        ),
        PERCEPTION,
        replace(
            POLICY,
            parameters=lambda a: {
                "bundle": a["bundle"],
                "use_sim_time": a["use_sim_time"],
                **({"lock_step": True} if a["lock_step"] else {}),
            },
        ),
        replace(
            CONTROLLER,
            parameters=lambda a: {
                "bundle": a["bundle"],
                "arm": a["arm"],
                # On a busy machine simulated time falls behind, and the controller follows it tick by tick.
                "tick_on": "joint_states",
                # With the page, a person enables the arm, and closing the page stops it, as on an arm.
                "start_enabled": not a["operator"],
                **({"require_heartbeat": True} if a["operator"] else {}),
                **base_of(a),
                "use_sim_time": a["use_sim_time"],
            },
        ),
        RECORDER,
        OPERATOR,
    ),
)
