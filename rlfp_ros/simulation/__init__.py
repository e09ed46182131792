"""The PyBullet world, its arms, tasks, camera and randomisation, and the Gymnasium environment."""
