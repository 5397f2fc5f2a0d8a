"""This suite beside other implementations, each subject in a module: what is timed, and their difference."""
