"""Whisper, the autoregressive recogniser of transformers."""
