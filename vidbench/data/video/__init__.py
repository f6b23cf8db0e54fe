"""From a video file to numbered frames."""
