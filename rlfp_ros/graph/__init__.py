"""The graph as data, and what starts it."""
