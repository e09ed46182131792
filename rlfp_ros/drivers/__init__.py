"""Cameras and arms that need no ROS driver package."""
