"""Tensors in, tensors out: no files, no pictures, no progress bars, no NumPy."""
