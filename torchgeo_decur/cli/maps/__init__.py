"""Write maps of whole scenes as Cloud-Optimized GeoTIFFs with bounded memory."""

from .dense_embeddings import embed_dense
from .pixel_maps import map_scene, predict_map

__all__ = ['embed_dense', 'map_scene', 'predict_map']
