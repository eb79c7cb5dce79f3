"""Datasets of co-registered modalities."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .archives.base import ArchiveDataset
from .archives.ssl4eo_s12_v1_1 import SSL4EOS12V11
from .archives.terramesh import TerraMesh
from .base import FileDataset, UnreadableFileError
from .bigearthnet import BigEarthNetMM
from .embeddings.paired_embeddings import PairedEmbeddings
from .geonrw import GeoNRWPatches
from .paired_folders import PairedFolders
from .plotting import plot_images
from .rgbd.base import RGBDDataset
from .rgbd.hha import (
    Intrinsics,
    encode_hha,
    geocentric,
    gravity_direction,
    surface_normals,
)
from .rgbd.hha_cache import HHACache
from .rgbd.nyu_depth_v2 import NYUDepthV2
from .rgbd.sunrgbd import SUNRGBD
from .ssl4eo_s12 import SSL4EOS12Pair
from .synthetic.factors import SyntheticFactors
from .synthetic.scenes import SyntheticEO
from .torchgeo_samples import TorchGeoSamples
from .trifeatures.dataset import Trifeatures

if TYPE_CHECKING:
    from ..packed import Manifest, PackedDataset, Shard

__all__ = [
    'SSL4EOS12V11',
    'SUNRGBD',
    'ArchiveDataset',
    'BigEarthNetMM',
    'FileDataset',
    'GeoNRWPatches',
    'HHACache',
    'Intrinsics',
    'Manifest',
    'NYUDepthV2',
    'PackedDataset',
    'PairedEmbeddings',
    'PairedFolders',
    'RGBDDataset',
    'SSL4EOS12Pair',
    'Shard',
    'SyntheticEO',
    'SyntheticFactors',
    'TerraMesh',
    'TorchGeoSamples',
    'Trifeatures',
    'UnreadableFileError',
    'encode_hha',
    'geocentric',
    'gravity_direction',
    'plot_images',
    'surface_normals',
]


def __getattr__(name: str) -> Any:
    """Import classes of ``packed`` on first use, because ``packed`` imports this package."""
    if name in ('Manifest', 'PackedDataset', 'Shard'):
        return getattr(import_module('..packed', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
