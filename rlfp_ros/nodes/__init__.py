"""ROS 2 nodes: messages to arrays and back. The only part of the package that imports rclpy."""
