"""What the person beside the arm uses: the terminal. Free of ROS."""
