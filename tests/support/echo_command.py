"""A console script for tests: prints its command line; its last argument is its exit code."""

import sys


def main() -> int:
    """Print sys.argv and return the last argument."""
    sys.stdout.write(" ".join(sys.argv) + "\n")
    return int(sys.argv[-1])
