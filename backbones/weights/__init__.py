"""Pretrained weights: sources, download, reading as data, translation of names, strict loading."""
