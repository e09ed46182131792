"""Training: encoders, reinforcement learning and export. Needs torch."""
