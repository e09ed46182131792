"""LeRobotDataset v3.0, written from bags and read as a dataset. Needs pyarrow and av, but not LeRobot."""
