"""Datasets of co-registered modalities that TorchGeo lacks or gets wrong."""

from .bigearthnet import BigEarthNetMM
from .geonrw import GeoNRWPatches
from .hha import Intrinsics, encode_hha, geocentric, gravity_direction, surface_normals
from .hha_cache import HHACache
from .manifest import Manifest, Shard
from .nyu_depth_v2 import NYUDepthV2
from .packed import PackedDataset
from .paired_folders import PairedFolders
from .plotting import plot_images
from .reading import FileDataset, UnreadableFileError
from .rgbd import RGBDDataset
from .ssl4eo_s12 import SSL4EOS12Pair
from .sunrgbd import SUNRGBD
from .synthetic import SyntheticEO
from .trifeatures import Trifeatures

__all__ = [
    'SUNRGBD',
    'BigEarthNetMM',
    'FileDataset',
    'GeoNRWPatches',
    'HHACache',
    'Intrinsics',
    'Manifest',
    'NYUDepthV2',
    'PackedDataset',
    'PairedFolders',
    'RGBDDataset',
    'SSL4EOS12Pair',
    'Shard',
    'SyntheticEO',
    'Trifeatures',
    'UnreadableFileError',
    'encode_hha',
    'geocentric',
    'gravity_direction',
    'plot_images',
    'surface_normals',
]
