"""Datasets of any datamodule, written as shards that stream."""

from .pack import pack_config, pack_datamodule

__all__ = ['pack_config', 'pack_datamodule']
