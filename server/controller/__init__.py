"""The control law: pure functions over samples. No clock, no I/O, no torch."""
