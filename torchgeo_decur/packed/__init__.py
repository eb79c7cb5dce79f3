"""Packed data, which stores the samples of any datamodule in shards for streaming."""

from .datamodule import PackedDataModule
from .dataset import PackedDataset
from .manifest import Manifest, Shard
from .writer import pack_config, pack_datamodule

__all__ = [
    'Manifest',
    'PackedDataModule',
    'PackedDataset',
    'Shard',
    'pack_config',
    'pack_datamodule',
]
