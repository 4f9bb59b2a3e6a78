"""Pseudo-labels: which segments of an output are kept for training, and why the others are not."""
