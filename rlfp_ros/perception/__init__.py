"""From a camera image to feature points, an object pose and a domain-shift score."""
