"""Where the wings meet: one file per training problem."""
