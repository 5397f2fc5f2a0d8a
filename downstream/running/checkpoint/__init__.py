"""Checkpoints: written atomically, read as data alone, also those of sharded models."""
