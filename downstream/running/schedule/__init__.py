"""The length of a run, and whether its schedule fits it."""
