"""Trainings from nothing to a bundle, in stages."""
