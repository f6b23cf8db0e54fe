"""Functions from tensors to tensors; they know no model, file or process."""
