"""Encoders as a model of torchgeo-bench.

https://github.com/torchgeo/torchgeo-bench: the same data sets, probes and intervals for
frozen models of any kind. Its config is ``conf/model/decur.yaml`` beside this file.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchgeo_bench.datasets.base import BandSpec
from torchgeo_bench.models.interface import BenchModel

from ..modalities import Modality, normalize_band
from ..models import MultimodalEncoder
from ..transforms import ScaleToUnit

# What its data sets call the bands of Sentinel-2 where they do not number them.
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
    """Features of every modality whose bands a data set has, concatenated.

    Bands are found by name. The first convolution is adapted to those that are there;
    bands of the data set that no encoder knows are left out. A modality without any is
    left out too.

    Args:
        bands: bands of the data set.
        weights: a checkpoint, an exported encoder, a weight enum or its name; it has to
            name its bands.
        modalities: which of its encoders; all by default.
        normalization: where the ends of the unit interval are, which encoders expect:
            'bandspec_zscore', mean - 2 std and mean + 2 std of the data set, or
            'model_native', those of the pretraining, for images in its unit.
        kwargs: what else the config has; not used.

    Raises:
        ValueError: if the weights do not name their bands, share none with the data set,
            or ``normalization`` is another.
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
        # It would scale all bands in one way, and clip none.
        super().__init__(bands=list(bands), normalization='identity')
        if str(normalization) not in _SCALES:
            raise ValueError(
                f'dataset.normalization must be one of {_SCALES}, since encoders expect '
                f'mean - 2 std to mean + 2 std as [0, 1], got {str(normalization)!r}'
            )
        held = MultimodalEncoder.from_weights(
            weights, None if modalities is None else list(modalities)
        )
        found = {m: _places(held.metadata[m], bands) for m in held.modalities}
        self.places = {m: list(p.values()) for m, p in found.items() if p}
        if not self.places:
            own = {m: known['bands'] for m, known in held.metadata.items()}
            raise ValueError(
                f'{weights}: expected bands of the data set, '
                f'{[band.name for band in bands]}, found {own}; choose others with '
                'dataset.bands'
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
            images: images of the data set, shape (B, C, H, W).

        Returns:
            The same with the bands of encoders in [0, 1].
        """
        scaled = images.clone()
        for m, places in self.places.items():
            scaled[:, places] = self.scales[m](images[:, places])
        return scaled

    @torch.no_grad()
    def _forward_patch_features(self, images: Tensor) -> Tensor:
        """Encode scaled images of shape (B, C, H, W) to features (B, F)."""
        return torch.cat(
            [
                encoder(images[:, self.places[m]])
                for m, encoder in self.encoders.items()
            ],
            1,
        )


def _places(known: Mapping[str, Any], bands: Sequence[BandSpec]) -> dict[str, int]:
    """Where in a data set each band of an encoder is, in the order of the encoder."""
    if 'bands' not in known:
        raise ValueError(
            f'weights must name the bands of {known["modality"]}, as the .safetensors of '
            'ExportEncoders and the published weights do'
        )
    names = [_names(band) for band in bands]
    found: dict[str, int] = {}
    for band in known['bands']:
        for i, own in enumerate(names):
            if normalize_band(band) in own:
                found.setdefault(band, i)
    return found


def _names(band: BandSpec) -> set[str]:
    """All names of a band of a data set."""
    names = {normalize_band(band.name), normalize_band(band.source_name)}
    names |= {_COLOURS.get(band.name, '')}
    if band.sensor == 's2':
        names |= {_SENTINEL2.get(band.name, '')}
        # As in "08A - Vegetation Red Edge".
        numbered = re.match(r'0*(\d+a?) - ', band.source_name.casefold())
        names |= {f'b{numbered[1]}'} if numbered else set()
    return names - {''}


def _of_dataset(bands: Sequence[BandSpec]) -> Modality:
    """The scale of a data set; the kind matters only where there are no statistics."""
    return Modality(
        tuple(f'{i}' for i in range(len(bands))),
        'multispectral',
        'that of the data set',
        tuple(float(band.mean) for band in bands),
        tuple(max(float(band.std), 1e-8) for band in bands),
    )


def _native(known: Mapping[str, Any], names: Sequence[str]) -> Modality:
    """The scale of the pretraining, for some of its bands."""
    if not {'kind', 'unit'} <= set(known):
        raise ValueError(
            f'weights must say the unit and the statistics of {known["modality"]} for '
            'dataset.normalization=model_native; take bandspec_zscore'
        )
    at = [list(known['bands']).index(name) for name in names]

    def some(key: str) -> tuple[float, ...] | None:
        values = known.get(key)
        return None if values is None else tuple(values[i] for i in at)

    return Modality(
        tuple(names),
        known['kind'],
        known['unit'],
        some('mean'),
        some('std'),
        known.get('nodata'),
    )
