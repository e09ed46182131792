"""Reads and writes rosbag2 (MCAP) bags."""
