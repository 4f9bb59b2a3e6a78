"""Speed of the engine beside transformers' own `generate`. Imports no ray."""
