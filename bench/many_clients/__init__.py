"""Many clients at once against one daemon, for as long as it takes: what they ask for, what they accept, what they saw.

`python -m bench.many_clients` starts a daemon and prints the table; `tests/e2e/test_many_clients.py` asserts on it.
"""
