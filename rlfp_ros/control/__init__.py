"""From features and joints to a safe command: policy, base controllers, residual, safety filter."""
