"""fullcanvas: transcribe whole speech archives with a diffusion speech recogniser on Ray Data."""

__version__ = "0.1.0"
