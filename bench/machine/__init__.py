"""A machine made of a number and some processes: real bytes, real programs, and no pressure on anything else."""
