"""One file per training problem."""
