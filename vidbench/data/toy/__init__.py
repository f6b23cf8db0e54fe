"""The toy worlds: rendered videos whose label is the motion."""
