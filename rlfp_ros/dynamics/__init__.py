"""Control by local models: linear-Gaussian controllers, dynamics fitted to what was played, and iLQR with a KL bound."""
