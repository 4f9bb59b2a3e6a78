"""Evaluation: error rates with intervals, comparison with a baseline, a gate, history and a report."""
