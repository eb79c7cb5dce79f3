"""Segmentation: feature pyramids, decoders and segmenters."""
