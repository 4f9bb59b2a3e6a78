"""Whisper, the autoregressive recogniser."""
