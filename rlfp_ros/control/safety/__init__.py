"""The safety controller: what stands between a wanted motion and the arm."""
