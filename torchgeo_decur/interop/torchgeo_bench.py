"""Encoders as a torchgeo-bench model (https://github.com/torchgeo/torchgeo-bench).

torchgeo-bench evaluates frozen models with common datasets, probes and confidence
intervals. The config of this model is ``conf/model/decur.yaml``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchgeo_bench.datasets.base import BandSpec
from torchgeo_bench.models.interface import BenchModel

from ..modalities import Modality, normalize_band
from ..models import MultimodalEncoder
from ..transforms import ScaleToUnit
from ..weights.metadata import EncoderMetadata

# Sentinel-2 band names in torchgeo-bench datasets that do not use band numbers.
_SENTINEL2 = {
    'coastal_aerosol': 'b1',
    'blue': 'b2',
    'green': 'b3',
    'red': 'b4',
    'red_edge_1': 'b5',
    'red_edge_2': 'b6',
    'red_edge_3': 'b7',
    'nir': 'b8',
    'red_edge_4': 'b8a',
    'water_vapour': 'b9',
    'swir_cirrus': 'b10',
    'swir_1': 'b11',
    'swir_2': 'b12',
}
_COLOURS = {'red': 'r', 'green': 'g', 'blue': 'b'}
_SCALES = ('bandspec_zscore', 'model_native')


class EncoderBench(BenchModel):  # type: ignore[misc,unused-ignore]
    """Bench model that concatenates the features of all modalities in a dataset.

    The first convolution of each encoder is adapted to the bands with matching names.
    Other bands of the dataset and modalities without a matching band are ignored.

    Args:
        bands: bands of the dataset.
        weights: a checkpoint, an exported encoder, a weight enum entry or its name. The
            weights must name their bands.
        modalities: names of the modalities to use; all by default.
        normalization: range of values that is scaled to [0, 1]. 'bandspec_zscore' is
            the dataset mean plus or minus two standard deviations. 'model_native' is
            the range used in pretraining, for images in the same unit.
        kwargs: other config entries, which are ignored.

    Raises:
        ValueError: if the weights do not name their bands, no band matches the dataset,
            or ``normalization`` is unknown.
    """

    def __init__(
        self,
        bands: Sequence[BandSpec],
        weights: str,
        modalities: Sequence[str] | None = None,
        normalization: str = 'bandspec_zscore',
        **kwargs: Any,
    ) -> None:
        """Initialize a new EncoderBench instance."""
        # The base class would scale all bands alike, without clipping.
        super().__init__(bands=list(bands), normalization='identity')
        if str(normalization) not in _SCALES:
            raise ValueError(
                f'dataset.normalization must be one of {_SCALES}, got '
                f'{str(normalization)!r}'
            )
        held = MultimodalEncoder.from_weights(
            weights, None if modalities is None else list(modalities)
        )
        found = {m: _places(held.metadata[m], bands) for m in held.modalities}
        self.places = {m: list(p.values()) for m, p in found.items() if p}
        if not self.places:
            own = {m: known['bands'] for m, known in held.metadata.items()}
            raise ValueError(
                f'{weights}: expected at least one dataset band among '
                f'{[band.name for band in bands]}, found {own}; choose other bands '
                'with dataset.bands'
            )
        names = {m: list(found[m]) for m in self.places}
        self.encoders = MultimodalEncoder(
            {m: len(n) for m, n in names.items()},
            {m: held.model[m] for m in names},
            dict.fromkeys(names, weights),
            names,
        ).encoders
        self.scales = torch.nn.ModuleDict()
        for m, places in self.places.items():
            native = normalization == 'model_native'
            own_scale = _native(held.metadata[m], names[m]) if native else None
            self.scales[m] = ScaleToUnit(
                own_scale or _of_dataset([bands[i] for i in places])
            )

    def normalize_inputs(self, images: Tensor) -> Tensor:
        """Scale the bands of each modality to the unit interval.

        Args:
            images: images of the dataset, shape (B, C, H, W).

        Returns:
            Images in which the bands of the encoders are scaled to [0, 1].
        """
        scaled = images.clone()
        for m, places in self.places.items():
            scaled[:, places] = self.scales[m](images[:, places])
        return scaled

    @torch.no_grad()
    def _forward_patch_features(self, images: Tensor) -> Tensor:
        """Encode scaled images, shape (B, C, H, W), to features, shape (B, F)."""
        return torch.cat(
            [
                encoder(images[:, self.places[m]])
                for m, encoder in self.encoders.items()
            ],
            1,
        )


def _places(known: Mapping[str, Any], bands: Sequence[BandSpec]) -> dict[str, int]:
    """Return the index of the dataset band that matches each encoder band, if any."""
    if 'bands' not in known:
        raise ValueError(
            f'weights must name the bands of {known["modality"]}, got none; use a '
            '.safetensors file from ExportEncoders, or published weights'
        )
    names = [_names(band) for band in bands]
    found: dict[str, int] = {}
    for band in known['bands']:
        for i, own in enumerate(names):
            if normalize_band(band) in own:
                found.setdefault(band, i)
    return found


def _names(band: BandSpec) -> set[str]:
    """Return all normalized names of a dataset band."""
    names = {normalize_band(band.name), normalize_band(band.source_name)}
    names |= {_COLOURS.get(band.name, '')}
    if band.sensor == 's2':
        names |= {_SENTINEL2.get(band.name, '')}
        # Match names such as "08A - Vegetation Red Edge".
        numbered = re.match(r'0*(\d+a?) - ', band.source_name.casefold())
        names |= {f'b{numbered[1]}'} if numbered else set()
    return names - {''}


def _of_dataset(bands: Sequence[BandSpec]) -> Modality:
    """Return a modality with the band statistics of a dataset."""
    return Modality(
        tuple(f'{i}' for i in range(len(bands))),
        'multispectral',
        'unit of the dataset',
        tuple(float(band.mean) for band in bands),
        tuple(max(float(band.std), 1e-8) for band in bands),
    )


def _native(known: Mapping[str, Any], names: Sequence[str]) -> Modality:
    """Return the modality used in pretraining, reduced to the given bands."""
    record = EncoderMetadata.from_dict(known).record
    if record is None:
        raise ValueError(
            f'weights must contain the unit and statistics of {known["modality"]} for '
            'dataset.normalization=model_native, got none; set '
            'dataset.normalization=bandspec_zscore'
        )
    at = [record.bands.index(name) for name in names]

    def select(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return None if values is None else tuple(values[i] for i in at)

    return replace(
        record,
        bands=tuple(names),
        mean=select(record.mean),
        std=select(record.std),
        wavelengths=select(record.wavelengths),
    )
