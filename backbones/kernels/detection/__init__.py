"""What detectors compute beside layers: features of boxes, of sampled points, suppressed boxes."""
