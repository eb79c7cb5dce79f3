"""Callbacks of torchgeo-decur."""
