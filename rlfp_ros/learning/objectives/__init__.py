"""Losses that an encoder can learn from."""
