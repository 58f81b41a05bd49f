"""Sources of memory readings, one per file, all of the shape in `probe.py`."""
