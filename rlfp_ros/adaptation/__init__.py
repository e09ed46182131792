"""Adapts a finished bundle to a place, from recorded runs."""
