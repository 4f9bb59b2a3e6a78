"""Archives of speech: every format lists its recordings and reads one."""
