"""Segmentation models: feature pyramids, decoders and segmenters."""
