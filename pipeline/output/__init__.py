"""Answers become commits, commits become tables."""
