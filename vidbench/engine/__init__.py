"""Run things: training, processes, run directories."""
