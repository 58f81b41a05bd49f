"""exllamav2's own converter, which makes levels on a GPU: all of them from one measurement."""
