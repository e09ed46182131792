"""The steps before an arm moves: calibrate, align, check, and compare a recorded run with training."""
