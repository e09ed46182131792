"""The simulated arm, driven from camera pixels.

What runs is in rlfp_ros/graph/description.py; `ros2 launch rlfp_ros sim.launch.py -s` lists the arguments.
"""

from launch import LaunchDescription

from rlfp_ros.graph.description import SIM
from rlfp_ros.graph.ros2_launch import launch_description


def generate_launch_description() -> LaunchDescription:
    return launch_description(SIM)
