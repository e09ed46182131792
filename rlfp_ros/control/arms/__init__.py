"""The arms that ship, by name. Their data lies in config/arms/."""
