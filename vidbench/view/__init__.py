"""Figures and HTML made from arrays and clips."""
