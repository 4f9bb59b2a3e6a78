"""Where the output tree lives."""
