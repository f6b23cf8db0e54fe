"""Tensors in, tensors out; knows no model, file or process."""
