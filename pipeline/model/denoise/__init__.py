"""The engine that denoises canvases."""
