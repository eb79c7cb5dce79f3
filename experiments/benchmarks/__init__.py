"""Benchmarks: speed and memory, each with the commit and the hardware."""
