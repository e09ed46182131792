"""From a finished training to a bundle."""
