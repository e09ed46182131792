"""Control by local models: linear-Gaussian controllers, fitted dynamics, and iLQR with a KL bound."""
