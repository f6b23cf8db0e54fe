"""Notebooks without a browser: checked parameters, execution, tables of runs."""
