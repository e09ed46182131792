"""The simulated arm, driven from camera pixels.

What runs is in rlfp_ros/graph/sim.py; `ros2 launch rlfp_ros sim.launch.py -s` lists the arguments.
"""

from launch import LaunchDescription

from rlfp_ros.graph.ros2_launch import launch_description
from rlfp_ros.graph.sim import SIM


def generate_launch_description() -> LaunchDescription:
    return launch_description(SIM)
