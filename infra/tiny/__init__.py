"""The factory of the embedded model: phrases, synthesised voices, training, measurement, and the speech we ship."""
