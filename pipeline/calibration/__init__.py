"""Calibrators: samples from transcripts with references, the fit, and how good it is."""
