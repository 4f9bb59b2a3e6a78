"""The factory of the embedded model: voices, phrases, training, measurement."""
