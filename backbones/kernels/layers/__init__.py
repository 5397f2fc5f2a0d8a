"""What the layers of a backbone compute: convolution, norm, activation, matrix products."""
