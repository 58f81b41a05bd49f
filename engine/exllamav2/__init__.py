"""Runs an ensemble on an NVIDIA GPU: exllamav2's kernels over weights that lie in device memory we own."""
