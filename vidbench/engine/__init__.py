"""Wing 4: running things."""
