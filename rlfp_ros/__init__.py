"""RLfP-ROS: pixels-to-policy manipulation, from PyBullet training to a ROS 2 graph on a real arm."""

__version__ = "0.1.0"
