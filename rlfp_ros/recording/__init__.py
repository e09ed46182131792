"""rosbag2 (MCAP) read and write."""
