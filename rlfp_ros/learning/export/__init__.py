"""Exports a finished training as a bundle."""
