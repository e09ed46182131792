"""The methods that ship, one per file."""
