"""Tools: what requests say about them, and the calls that models write into their answers."""
