"""Datasets: recorded bags as episodes on the images that the policy saw."""
