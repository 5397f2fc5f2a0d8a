"""This suite beside other implementations: what is timed, each subject in a module of its own."""
