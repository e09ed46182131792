"""The tasks, one file each, with their settings in `sim/tasks/`."""
