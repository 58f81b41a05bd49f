"""`flexquant-doctor`: what this machine supports, and what the daemon has recorded. One file per group of checks."""
