"""Preflight of a machine or a cluster: what would stop a run, found before anybody pays for it."""
