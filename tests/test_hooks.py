"""Name what the package uses of TorchGeo and Lightning that is not public.

A test that fails names the hook: the version is one that the package has not seen. What is done
without the hook is tested too.
"""

from enum import Enum
from inspect import signature
from typing import Any

import pytest
from lightning.pytorch import Trainer
from torchgeo.datasets import RasterDataset
from torchgeo.models import api
from torchgeo.samplers import RandomPatchSampler
from torchvision.models import WeightsEnum
from torchvision.models._api import Weights

from torchgeo_decur.datamodules import loaders
from torchgeo_decur.models import ResNet50_Weights
from torchgeo_decur.weights import published


def test_torchgeo_keeps_models_and_weights_in_dictionaries() -> None:
    assert isinstance(api._model, dict), 'torchgeo.models.api._model'
    assert isinstance(api._model_weights, dict), 'torchgeo.models.api._model_weights'


def test_raster_dataset_opens_files_by_one_method() -> None:
    hook = getattr(RasterDataset, '_load_warp_file', None)
    assert hook is not None, 'RasterDataset._load_warp_file'
    assert list(signature(hook).parameters)[1:] == ['filepath', 'crs']


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

    with pytest.warns(UserWarning, match='does not say which batches are done'):
        assert loaders._progress(Another()) == (3, 0)  # type: ignore[arg-type]


def test_weights_pass_for_those_of_torchgeo() -> None:
    entry = ResNet50_Weights.GEONRW_RGB_DECUR
    assert isinstance(entry, WeightsEnum)
    assert isinstance(entry, getattr(api, 'WeightsEnum', WeightsEnum))


class Own(Enum):
    """As an enum of TorchGeo's own may be."""

    @property
    def url(self) -> str:
        return str(self.value.url)


class Derived(WeightsEnum):  # type: ignore[misc]
    """One that TorchGeo derives from torchvision's."""


@pytest.mark.parametrize('own', [Own, Derived, WeightsEnum])
def test_weights_pass_for_those_of_another_torchgeo(own: Any) -> None:
    bases = published.join_enums(WeightsEnum, own)
    enum: Any = bases('Sensor_Weights', {'A': Weights('a.pth', int, {'bands': ['x']})})
    assert isinstance(enum.A, WeightsEnum) and isinstance(enum.A, own)
    assert enum.A.url == 'a.pth' and enum.A.meta == {'bands': ['x']}
    assert str(enum.A) == 'Sensor_Weights.A'
