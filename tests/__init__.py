"""Tests of torchgeo-decur."""
