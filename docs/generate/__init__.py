"""Writes what the pages of the reference take from the code."""
