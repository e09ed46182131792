"""Drivers of arms, one file each, which `driver:=NAME` chooses."""
