"""Check the private parts of TorchGeo and Lightning that the package uses.

A test that fails names the hook: the version is one that the package has not seen. What is done
without the hook is tested too.
"""

from enum import Enum
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from pyproj import Transformer
from rasterio.transform import from_origin
from torchgeo.datasets import GeoDataset, RasterDataset
from torchgeo.models import api
from torchgeo.samplers import RandomPatchSampler
from torchvision.models import WeightsEnum
from torchvision.models._api import Weights

from tests.helpers.fake_data import write_bands
from torchgeo_decur.datamodules import loaders
from torchgeo_decur.datasets.rasters.files import inspect
from torchgeo_decur.datasets.rasters.folder import RasterFolder
from torchgeo_decur.models import ResNet50_Weights
from torchgeo_decur.weights.enums import join_enums


def test_torchgeo_keeps_models_and_weights_in_dictionaries() -> None:
    assert isinstance(api._model, dict), 'torchgeo.models.api._model'
    assert isinstance(api._model_weights, dict), 'torchgeo.models.api._model_weights'


def test_raster_dataset_opens_files_by_one_method() -> None:
    hook = getattr(RasterDataset, '_load_warp_file', None)
    assert hook is not None, 'RasterDataset._load_warp_file'
    assert list(signature(hook).parameters)[1:] == ['filepath', 'crs']


def test_raster_folder_is_read_without_hooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check reading with other names of TorchGeo's private methods."""
    values = np.arange(256.0).reshape(1, 16, 16)
    place = {'crs': 'EPSG:32632', 'transform': from_origin(500_000, 5_000_000, 10, 10)}
    write_bands(tmp_path / 'a.tif', values % 7, nodata=3, **place)
    x, y = Transformer.from_crs(32632, 32633, always_xy=True).transform(500_100, 5e6)
    place = {'crs': 'EPSG:32633', 'transform': from_origin(x, y, 10, 10)}
    write_bands(tmp_path / 'b.tif', values + 10, **place)
    files, _ = inspect([f'{tmp_path}/a.tif', f'{tmp_path}/b.tif'])

    def read() -> tuple[Any, Any]:
        folder = RasterFolder(files, ['x'])
        folder.cache = False
        return folder.bounds, folder[folder.bounds]['image']

    bounds, image = read()
    assert image.isnan().any() and (image > 9).any() and (image < 7).any()
    init = RasterDataset.__init__
    names = [n.replace('_load_warp_file', '_own') for n in init.__code__.co_names]
    assert '_own' in names
    monkeypatch.setattr(init, '__code__', init.__code__.replace(co_names=(*names,)))
    hook = RasterDataset._load_warp_file
    monkeypatch.setattr(RasterDataset, '_own', hook, raising=False)
    private = ['_load_warp_file', '_cached_load_warp_file', '_merge_or_stack']
    for name in (*private, '_update_filepath'):
        monkeypatch.delattr(RasterDataset, name)
    for name in ('_disambiguate_slice', '_slice_to_tensor'):
        monkeypatch.delattr(GeoDataset, name)
    found, again = read()
    assert found == bounds
    torch.testing.assert_close(again, image, equal_nan=True, rtol=0, atol=0)


def test_patch_sampler_draws_from_an_attribute() -> None:
    names = RandomPatchSampler.__init__.__code__.co_names
    assert 'series' in names, 'RandomPatchSampler.series'


def test_lightning_counts_batches() -> None:
    assert loaders._progress(Trainer(logger=False, enable_checkpointing=False)) == (
        0,
        0,
    )


def test_an_epoch_begins_again_without_the_counts() -> None:
    class Another:
        fit_loop, current_epoch = object(), 3

    with pytest.warns(UserWarning, match='does not report finished batches'):
        assert loaders._progress(Another()) == (3, 0)  # type: ignore[arg-type]


def test_weights_pass_for_those_of_torchgeo() -> None:
    entry = ResNet50_Weights.GEONRW_RGB_DECUR
    assert isinstance(entry, WeightsEnum)
    assert isinstance(entry, getattr(api, 'WeightsEnum', WeightsEnum))


class Own(Enum):
    """Weights of a separate enum of TorchGeo."""

    @property
    def url(self) -> str:
        return str(self.value.url)


class Derived(WeightsEnum):  # type: ignore[misc]
    """Weights of an enum that TorchGeo derives from torchvision's."""


@pytest.mark.parametrize('own', [Own, Derived, WeightsEnum])
def test_weights_pass_for_those_of_another_torchgeo(own: Any) -> None:
    bases = join_enums(WeightsEnum, own)
    enum: Any = bases('Sensor_Weights', {'A': Weights('a.pth', int, {'bands': ['x']})})
    assert isinstance(enum.A, WeightsEnum) and isinstance(enum.A, own)
    assert enum.A.url == 'a.pth' and enum.A.meta == {'bands': ['x']}
    assert str(enum.A) == 'Sensor_Weights.A'
