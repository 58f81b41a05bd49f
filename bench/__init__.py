"""Measures FlexQuant beside llama.cpp and torch, alternately and in one run: `python -m bench --help`."""
