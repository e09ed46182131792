"""The cameras of `real_arm.launch.py`: those with a ROS driver, and those for which the graph starts a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlfp_ros.drivers.camera import CAMERAS, make_camera
from rlfp_ros.graph.description import Argument, Arguments, Node, Respawn
from rlfp_ros.perception.camera_info_file import load_camera_info
from rlfp_ros.recording import topics
from rlfp_ros.schema import ConfigurationError

# Image topic of each camera whose ROS driver is started as docs/how-to/hardware/ says; its camera_info is beside it.
ROS_CAMERAS = {
    "realsense": "camera/camera/color/image_raw",
    "usb_cam": "image_raw",
    "v4l2": "image_raw",
    "custom": "camera/image_raw",
}

CAMERA = (
    Argument(
        "camera",
        "custom",
        f"the camera (docs/how-to/hardware/). {', '.join(ROS_CAMERAS)}: its ROS driver runs already, and this names "
        "its topics. uvc (a webcam), file (a video or a folder of images) or one of your own: the node camera starts, "
        "and needs no ROS driver",
        pattern=r"[A-Za-z0-9_.-]+",
    ),
    Argument(
        "camera_source",
        "",
        "which camera. For uvc a path (/dev/v4l/by-id/...), a number or part of a name; empty for the only one. For "
        "file a video or a folder of images",
    ),
    Argument(
        "camera_settings",
        "",
        "settings of the node camera's driver, such as '{width: 1280, height: 720, exposure_s: 0.01}'; empty: their "
        "defaults",
    ),
    Argument(
        "camera_info_file",
        "",
        "the calibration that the node camera publishes, a file that `./rlfp calibrate intrinsics` wrote; empty: not "
        "calibrated, and perception uses no image",
    ),
)


def starts_camera(arguments: Arguments) -> bool:
    """Return whether the graph has a camera node of its own, because the camera needs no ROS driver."""
    return arguments.get("camera", "custom") not in ROS_CAMERAS


CAMERA_NODE = Node(
    "camera",
    "images of a camera that needs no ROS driver, or of a file (camera:=uvc, camera:=file)",
    parameters=lambda a: {
        "camera": a["camera"],
        "source": a["camera_source"],
        "settings": a["camera_settings"],
        "camera_info_file": a["camera_info_file"],
        "use_sim_time": a["use_sim_time"],
    },
    condition=starts_camera,
    respawn=Respawn(),  # the controller holds the arm meanwhile
    publishes_images=True,
)


def image_topic(name: str) -> str:
    """Return the image topic of a camera. Raises ConfigurationError if no camera has this name."""
    if name in ROS_CAMERAS:
        return ROS_CAMERAS[name]
    if name in CAMERAS:
        return topics.IMAGE
    raise ConfigurationError(
        f"real_arm.launch.py: camera is {name!r}; it can be: {', '.join([*ROS_CAMERAS, *CAMERAS])}; one of your own is "
        "loaded with --plugin FILE"
    )


def check_camera(arguments: dict[str, Any]) -> None:
    """Check the arguments of the camera node, and make its paths absolute, because nodes may run in another folder.

    Raises
    ------
    ConfigurationError
        If there is no such camera, it does not take the settings, or its calibration cannot be used.
    """
    image_topic(arguments["camera"])
    if not starts_camera(arguments):
        given = [name for name in ("camera_source", "camera_settings", "camera_info_file") if arguments.get(name)]
        if given:
            raise ConfigurationError(
                f"real_arm.launch.py: {given[0]} is {arguments[given[0]]!r}, but camera is {arguments['camera']!r}, "
                f"whose driver the graph does not start; give camera:=uvc or camera:=file, or leave {given[0]} out"
            )
        return
    make_camera(arguments["camera"], arguments["camera_source"], arguments["camera_settings"])
    source = Path(arguments["camera_source"]).expanduser()
    if arguments["camera_source"] and source.exists():
        arguments["camera_source"] = str(source.absolute())  # a link stays one: by-id names outlive an unplug
    if arguments["camera_info_file"]:
        load_camera_info(arguments["camera_info_file"])
        arguments["camera_info_file"] = str(Path(arguments["camera_info_file"]).expanduser().resolve())
