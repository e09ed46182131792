"""The report of a training: one HTML file with curves, episodes and figures."""
