"""Backbones that timm does not provide."""
