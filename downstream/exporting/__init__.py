"""Trained models as files that need neither this suite nor, but for one format, PyTorch."""
