"""Model files: on disk, on the hub, and from other programs."""
