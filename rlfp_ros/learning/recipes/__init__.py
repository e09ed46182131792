"""Recipes: complete trainings of a bundle, in stages."""
