"""Settings for all tests."""

from flexquant.engine.thread_waiting import sleep_while_waiting

sleep_while_waiting()  # before any test module imports torch
