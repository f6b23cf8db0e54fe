"""Whole experiments: the demo and the comparisons with published claims."""
