"""Data sets by name, read from their own list files."""
