"""Datasets of co-registered modalities that TorchGeo lacks or gets wrong."""

from .bigearthnet import BigEarthNetMM
from .geonrw import GeoNRWPatches
from .plotting import plot_images
from .reading import FileDataset, UnreadableFileError
from .ssl4eo_s12 import SSL4EOS12Pair
from .synthetic import SyntheticEO
from .trifeatures import Trifeatures

__all__ = [
    'BigEarthNetMM',
    'FileDataset',
    'GeoNRWPatches',
    'SSL4EOS12Pair',
    'SyntheticEO',
    'Trifeatures',
    'UnreadableFileError',
    'plot_images',
]
