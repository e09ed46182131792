"""The graph as data, and the code that starts it."""
