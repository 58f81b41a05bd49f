"""Checks and times the backend `exllamav2` on a machine with an NVIDIA GPU: `python -m bench.cuda --help`."""
