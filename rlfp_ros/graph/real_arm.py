"""The graph of a real arm and camera: `real_arm.launch.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rlfp_ros.graph.arm_drivers import ARM_DRIVER, DRIVER, simulated_bus
from rlfp_ros.graph.cameras import CAMERA, CAMERA_NODE, image_topic, starts_camera
from rlfp_ros.graph.description import Argument, Arguments, Graph, Node, OnExit, Respawn
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
    REAL_ARM_TRANSPORT,
    RECORD,
    RECORDER,
    base_of,
    waited_for,
)
from rlfp_ros.perception.image_topics import camera_info_beside


def _real_topics(arguments: Arguments) -> dict[str, str]:
    """Return the remappings from the graph's topic names to the drivers'."""
    controller = arguments["controller_name"]
    gripper = arguments["gripper_controller_name"]
    image = arguments["image_topic"] or image_topic(arguments["camera"])
    return {
        "camera/image_raw": image,
        "camera/image_raw/compressed": f"{image}/compressed",
        "camera/camera_info": arguments["camera_info_topic"] or camera_info_beside(image),
        "joint_states": arguments["joint_states_topic"],
        "joint_trajectory_controller/joint_trajectory": f"{controller}/joint_trajectory",
        "forward_position_controller/commands": f"{controller}/commands",
        "forward_velocity_controller/commands": f"{controller}/commands",
        "gripper_controller/joint_trajectory": f"{gripper}/joint_trajectory",
    }


_TOPIC = r"[A-Za-z~/][A-Za-z0-9_/]*"


def _extrinsics(arguments: Arguments) -> str:
    """Return the extrinsics: for the twin the bundle's, because its camera is placed there; else the given ones."""
    return str(arguments["extrinsics"] or ("bundle" if arguments["use_mock_hardware"] else ""))


def _of_all(arguments: Arguments) -> dict[str, Any]:
    """Return the parameters that perception, policy, checklist and controller have in common."""
    return {
        "bundle": arguments["bundle"],
        "arm": arguments["arm"],
        "extrinsics": _extrinsics(arguments),
        "use_sim_time": arguments["use_sim_time"],
    }


REAL_ARM = Graph(
    name="real_arm",
    description="A real arm and camera, driven by the same perception, policy and controller. Starts DISABLED.",
    arguments=(
        ARM,
        CELL,
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
        *CAMERA,
        *DRIVER,
        Argument(
            "image_topic",
            "",
            "the camera driver's image topic; its compressed one is taken as well; empty: as camera says",
            pattern=f"({_TOPIC})?",
        ),
        Argument(
            "camera_info_topic",
            "",
            "the camera driver's camera_info topic; empty: the one beside the image topic",
            pattern=f"({_TOPIC})?",
        ),
        Argument(
            "image_kind",
            "auto",
            "whether the images still show the lens (raw), or image_proc has removed it (rectified); auto: rectified "
            "if the image topic is named image_rect...",
            choices=("auto", "raw", "rectified"),
        ),
        Argument(
            "extrinsics",
            "",
            "the camera's calibrated place: a file that `./rlfp calibrate extrinsics` wrote, or bundle: it is where "
            "the bundle says; empty: as cell says, or without one not known, and the arm is not enabled",
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
            "true: start arm_twin, a MuJoCo arm and camera with the same topics, instead of hardware",
            kind="flag",
        ),
        Argument("mock_room", "twin_near", "the room of the twin: the name of a file in sim/scenes/, or a path"),
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
        *BASE,
        *RECORD,
        *OPERATE,
        Argument("use_sim_time", "false", "true only when a bag or a simulator publishes /clock", kind="flag"),
        REAL_ARM_TRANSPORT,
        *COMMON,
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
                "wait_for": waited_for(a),
                "referee": not (a["base_controller"] or a["driver"]),
                "images": not starts_camera(a),
                **simulated_bus(a),
            },
            remappings=_real_topics,
            condition=lambda a: bool(a["use_mock_hardware"]),
            on_exit=OnExit.FINISH,
            publishes_images=True,
        ),
        replace(CAMERA_NODE, remappings=_real_topics),
        replace(ARM_DRIVER, remappings=_real_topics),
        replace(
            PERCEPTION,
            parameters=lambda a: {
                **_of_all(a),
                "image_kind": a["image_kind"],
            },
            remappings=_real_topics,
            # The controller holds the arm while perception or policy is away, so both may come back.
            respawn=Respawn(),
        ),
        replace(
            POLICY,
            parameters=_of_all,
            remappings=_real_topics,
            respawn=Respawn(),
        ),
        Node(
            "checklist",
            "what the drivers send against what the policy needs; the arm is enabled only if all of it fits",
            parameters=lambda a: {
                **_of_all(a),
                "output": a["command_interface"],
                "require_heartbeat": a["require_heartbeat"],
            },
            remappings=_real_topics,
            respawn=Respawn(),
        ),
        replace(
            CONTROLLER,
            parameters=lambda a: {
                **_of_all(a),
                "tick_on": "timer",
                "start_enabled": False,
                "output": a["command_interface"],
                "dry_run": a["dry_run"],
                "step_by_step": a["step"],
                "require_checklist": True,
                **base_of(a),
                "require_heartbeat": a["require_heartbeat"],
            },
            remappings=_real_topics,
            # Never restarted automatically, because a person has to check the arm first.
        ),
        replace(
            RECORDER,
            remappings=_real_topics,
            on_exit=OnExit.CONTINUE,  # a full disk must not stop an arm that moves
            respawn=Respawn(attempts=2),
        ),
        OPERATOR,
    ),
)
