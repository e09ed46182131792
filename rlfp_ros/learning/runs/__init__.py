"""Bookkeeping of a training: checkpoints, progress, logs."""
