"""Pairs of drawn images with a shape, texture and color."""
