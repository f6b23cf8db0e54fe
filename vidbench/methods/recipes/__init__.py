"""What can be set of each method, and its presets, each number with its section or table."""
