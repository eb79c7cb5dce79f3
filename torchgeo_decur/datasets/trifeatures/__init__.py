"""Pairs of drawn images that show a shape with a texture and a color."""
