"""Encoded bytes become samples, samples become segments."""
