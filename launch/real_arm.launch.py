"""A real arm and camera, driven from camera pixels. Starts DISABLED.

What runs is in rlfp_ros/graph/real_arm.py; `ros2 launch rlfp_ros real_arm.launch.py -s` lists the arguments.
"""

from launch import LaunchDescription

from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.ros2_launch import launch_description


def generate_launch_description() -> LaunchDescription:
    return launch_description(REAL_ARM)
