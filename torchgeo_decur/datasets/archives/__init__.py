"""Datasets of zarr arrays in ZIP files and tar shards."""
