"""Pairs of drawn images of shape, texture and color."""
