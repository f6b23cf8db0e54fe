"""Optical flow: estimators, storage, ground truth."""
