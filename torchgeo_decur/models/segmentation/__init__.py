"""Segmentation: pyramids of features, decoders and the models that join them."""
