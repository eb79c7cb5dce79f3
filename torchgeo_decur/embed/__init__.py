"""What a run makes of data: embeddings of splits, and of whole scenes as GeoParquet."""

from .rasters import embed_rasters
from .run import load_run
from .splits import split_batches

__all__ = ['embed_rasters', 'load_run', 'split_batches']
