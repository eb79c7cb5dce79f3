"""Synthetic scenes from simulated sensors."""
