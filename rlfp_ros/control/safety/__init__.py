"""The safety controller: checks every wanted motion before it is sent to the arm."""
