"""One daemon under everything at once, for as long as it takes: load, memory pressure, wishes, clients that go away.

`python -m bench.soak` starts a daemon on a simulated machine, and hogs that share it: real bytes. It ends with a table
of checks, and with exit code 1 if one of them failed. A seed makes the schedule again.
"""
