"""Georeferenced rasters of any sensors."""
