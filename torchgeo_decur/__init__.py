"""Self-supervised learning from several Earth-observation modalities, for TorchGeo."""

__version__ = '0.1.0'
