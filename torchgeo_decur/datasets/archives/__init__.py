"""Datasets that read zarr arrays from ZIP files and tar shards."""
