"""Training of the embedded model: phrases, synthesised speech, cached features, losses, loop."""
