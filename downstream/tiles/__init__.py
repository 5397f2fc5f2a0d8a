"""Large pictures in tiles: objects merged across seams, scores of pixels blended."""
