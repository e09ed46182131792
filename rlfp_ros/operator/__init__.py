"""The terminal for the person beside the arm. Does not import ROS."""
