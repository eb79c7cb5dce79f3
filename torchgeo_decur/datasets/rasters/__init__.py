"""Georeferenced rasters from any sensor."""
