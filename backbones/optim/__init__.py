"""Learning-rate decay by the depth of a parameter."""
