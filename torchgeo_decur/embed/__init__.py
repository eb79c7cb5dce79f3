"""Embeddings of whole scenes, written as GeoParquet."""

from .rasters import embed_rasters
from .run import load_run

__all__ = ['embed_rasters', 'load_run']
