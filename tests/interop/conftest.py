"""Replacements for packages that are not installed, with the parts that adapters use."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchgeo_decur.modalities import MODALITIES
from torchgeo_decur.models import MultimodalEncoder
from torchgeo_decur.weights.metadata import EncoderMetadata


class Registry(dict[str, Callable[..., Any]]):
    """Registry of constructors, like that of TerraTorch."""

    def register(self, constructor: Callable[..., Any]) -> Callable[..., Any]:
        self[constructor.__name__] = constructor
        return constructor

    def build(self, name: str, **options: Any) -> Any:
        return self[name](**options)


@dataclass(frozen=True)
class BandSpec:
    """Band of a data set, like that of torchgeo-bench."""

    sensor: str
    name: str
    source_name: str
    mean: float
    std: float
    min: float
    max: float
    wavelength_um: float | None = None


class BenchModel(nn.Module):
    """Model that scales images and then calls its subclass, as in torchgeo-bench."""

    def __init__(self, bands: list[BandSpec], normalization: str, **_: object) -> None:
        super().__init__()
        self.bands = bands
        self.num_channels = len(bands)
        self.normalization = normalization

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self._forward_patch_features(self.normalize_inputs(images))
        return features


STAND_INS = {
    'terratorch.registry': {'TERRATORCH_BACKBONE_REGISTRY': Registry()},
    'torchgeo_bench.datasets.base': {'BandSpec': BandSpec},
    'torchgeo_bench.models.interface': {'BenchModel': BenchModel},
}


@pytest.fixture(scope='session')
def adapter() -> Iterator[Callable[[str], ModuleType]]:
    """Import a module of interop, with its package or a replacement."""
    added = []
    missing = [n for n in STAND_INS if find_spec(n.partition('.')[0]) is None]
    for name in missing:
        parts = name.split('.')
        for i in range(1, len(parts) + 1):
            parent = '.'.join(parts[:i])
            if parent not in sys.modules:
                sys.modules[parent] = ModuleType(parent)
                added.append(parent)
        vars(sys.modules[name]).update(STAND_INS[name])
    yield lambda name: import_module(f'torchgeo_decur.interop.{name}')
    for name in added:
        del sys.modules[name]


@pytest.fixture(scope='session')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write encoders of Sentinel-1 and Sentinel-2 with their metadata."""
    torch.manual_seed(0)
    names = {'s1': 'sentinel1_grd', 's2': 'sentinel2_l1c'}
    encoders = MultimodalEncoder(
        {'s1': 2, 's2': 13},
        'test_resnet',
        metadata={
            m: EncoderMetadata.of(m, MODALITIES[n].channels, MODALITIES[n]).to_dict()
            for m, n in names.items()
        },
    )
    folder = tmp_path_factory.mktemp('encoders')
    encoders.save_pretrained(folder)
    return folder / 'model.safetensors'
