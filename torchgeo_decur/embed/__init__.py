"""What a run makes of data: embeddings of splits, and of whole scenes as GeoParquet."""

from .rasters import embed_rasters
from .run import load_run
from .splits import Batches

__all__ = ['Batches', 'embed_rasters', 'load_run']
