"""Functions of tensors in C and Triton, each with a PyTorch fallback; they know no model."""
