"""Pretrained weights: found, downloaded, read as data, translated and loaded whole."""
