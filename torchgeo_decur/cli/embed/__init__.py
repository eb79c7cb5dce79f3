"""Compute embeddings of dataset splits and of whole scenes."""

from .runs import load_run
from .split_batches import Batches
from .write_embeddings import embed_rasters

__all__ = ['Batches', 'embed_rasters', 'load_run']
