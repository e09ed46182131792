"""The tasks: one file per task, with its settings in `sim/tasks/`."""
