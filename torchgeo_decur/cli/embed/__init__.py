"""Compute embeddings of dataset splits and of whole scenes."""

from .frozen_models import embed_with
from .runs import load_encoders, load_run
from .split_batches import Batches
from .write_embeddings import embed_rasters

__all__ = ['Batches', 'embed_rasters', 'embed_with', 'load_encoders', 'load_run']
