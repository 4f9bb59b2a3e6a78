"""Measures speed: the engine, the flow through Ray, planning and decoding."""
