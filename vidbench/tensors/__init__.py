"""Wing 1: tensors in, tensors out; knows no model, file or process."""
