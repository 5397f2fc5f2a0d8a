"""Checkpoints: whole or not there, read as data, sharded models included."""
