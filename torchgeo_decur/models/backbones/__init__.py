"""Backbones that timm does not have."""
