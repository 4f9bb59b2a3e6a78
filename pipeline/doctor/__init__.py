"""Checks of a machine or a cluster before a run: what would stop it."""
