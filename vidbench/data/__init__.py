"""Wing 3: from a file to a batch."""
