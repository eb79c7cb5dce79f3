"""Synthetic scenes with known shared and unique factors."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.nn.functional import one_hot

from ...deprecation import renamed_arguments
from ..plotting import plot_images
from .base import SyntheticScenes
from .landscapes import COVERS, LANDSCAPES, Fields, Floats, Place, make_place
from .layouts import write
from .sensors import (
    BANDS,
    OPTICAL_STATES,
    RADAR_STATES,
    aerial,
    sentinel1,
    sentinel2,
    surface_model,
)

# Names of the random streams, one for each component of a scene.
_STREAMS = (
    'labels',
    'ground',
    'layout',
    's1',
    's1_date',
    's1_state',
    's2',
    's2_date',
    's2_state',
    'rgb_date',
    'dem',
    'grain',
    'absent',
)
# Standard deviation of Sentinel-2 noise in digital numbers, and maximum offset into the
# precomputed noise array.
_GRAIN, _SHIFT = 20.0, 4096
_SYNERGY = len(RADAR_STATES)


class SyntheticEO(SyntheticScenes):
    r"""Synthetic scenes with co-registered radar, optical and elevation images.

    A scene has a terrain and a land cover. Four sensors observe it:

    - Sentinel-1: backscatter in dB, with gamma speckle and slope effects
    - Sentinel-2: 13 bands in digital numbers, with illumination, haze, clouds and shadows
    - an elevation model that includes trees and buildings
    - an aerial camera

    The pixel size is 10 m. The seed and index determine all values, so scenes are
    reproducible in every process and no download is required.

    Each scene has four labels. The first three are drawn uniformly and independently:

    ================== =================== ======= =========================================
    label              visible to          classes meaning
    ================== =================== ======= =========================================
    ``label_common``   every sensor        8       landscape: shapes of the parcels and
                                                   their land cover
    ``label_s1``       radar only          6       roughness (rows, moist patches,
                                                   scatterers) in one polarization
    ``label_s2``       optical only        6       vegetation state: in patches, one group
                                                   of bands increases and one decreases
    ``label_synergy``  both together       6       (``label_s1`` + ``label_s2``) mod 6
    ================== =================== ======= =========================================

    ``label_synergy`` is independent of every other single label; only ``label_s1`` and
    ``label_s2`` together determine it. ``label_s1`` does not affect Sentinel-2 pixels, and
    ``label_s2`` does not affect Sentinel-1 pixels; see :meth:`render`. ``rgb`` images are
    affected only by the states of ``label_s2`` that change the visible bands.

    With ``multilabel``, a sample also has ``label``, which combines the first three labels
    into one multi-label target, as in BigEarthNet.

    Nuisance factors are drawn for each sensor and date: radar offset, number of looks,
    speckle, look direction, brightness, direction of the sun, haze and clouds. These
    factors and the season differ between dates; terrain, parcels and labels do not.

    Use different seeds for training and validation.

    Args:
        length: number of scenes.
        size: height and width in pixels.
        seed: seed of all scenes.
        modalities: names of one or more modalities in order: 's1', 's2', 'dem' and 'rgb'.
        num_dates: number of dates T per scene.
        common_strength: contrast between land covers in all modalities. If 0,
            ``label_common`` has no effect.
        unique_strength: contrast of the factors that only one sensor observes. If 0,
            ``label_s1`` and ``label_s2`` have no effect.
        multilabel: whether samples have ``label``.
        cache: whether each process keeps its scenes in memory, at 4 bytes per image value
            and 8 bytes per pixel.
        paired: probability that a scene has all modalities. Other scenes have a single
            random modality. Absent images are zeros, and each sample has
            ``available_<m>``.
        transforms: function that transforms each sample and returns a new one.

    Raises:
        ValueError: if a modality is unknown or repeated, or a number is too small.

    Example:
        >>> dataset = SyntheticEO(length=8, size=32)
        >>> sample = dataset[3]
        >>> sample['image_s1'].shape, sample['image_s2'].shape, sample['mask'].shape
        (torch.Size([2, 32, 32]), torch.Size([13, 32, 32]), torch.Size([32, 32]))
        >>> dataset.num_classes['label_common']
        8
    """

    all_modalities: ClassVar[dict[str, str]] = {
        's1': 'sentinel1_grd',
        's2': 'sentinel2_l1c',
        'dem': 'geonrw_dem',
        'rgb': 'geonrw_rgb',
    }
    classes: ClassVar[tuple[str, ...]] = COVERS
    label_classes: ClassVar[dict[str, tuple[str, ...]]] = {
        'label_common': tuple(LANDSCAPES),
        'label_s1': RADAR_STATES,
        'label_s2': OPTICAL_STATES,
        'label_synergy': tuple(f'sum {i}' for i in range(_SYNERGY)),
    }
    colormap: ClassVar[ListedColormap] = ListedColormap(
        [
            '#2a6fb0',
            '#1e6b34',
            '#9bc968',
            '#e3c74f',
            '#b98a5e',
            '#58a6a0',
            '#c8423f',
            '#8d8d8d',
        ]
    )

    @renamed_arguments(keep='cache')
    def __init__(
        self,
        length: int = 1024,
        size: int = 64,
        seed: int = 0,
        modalities: Sequence[str] = ('s1', 's2'),
        num_dates: int = 1,
        common_strength: float = 1.0,
        unique_strength: float = 1.0,
        multilabel: bool = False,
        cache: bool = False,
        paired: float = 1.0,
        transforms: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        """Initialize a new SyntheticEO instance."""
        known = [m for m in self.all_modalities if m in modalities]
        if not known or len(known) != len(modalities):
            raise ValueError(
                f'modalities must be one or more of {list(self.all_modalities)} without '
                f'duplicates, got {list(modalities)}'
            )
        super().__init__(
            modalities,
            length,
            size,
            seed,
            num_dates,
            cache,
            paired,
            transforms,
            common_strength=common_strength,
            unique_strength=unique_strength,
        )
        self.common_strength = common_strength
        self.unique_strength = unique_strength
        self.multilabel = multilabel
        self._fields = Fields(size)
        # Draw the noise once, because drawing it for each image would take twice as long.
        self._grain: Floats | None = None
        if 's2' in modalities:
            self._grain = np.float32(_GRAIN) * self._rng(0, 'grain').standard_normal(
                BANDS * size * size + _SHIFT, dtype=np.float32
            )

    @property
    def num_classes(self) -> dict[str, int]:
        """Number of classes of each label."""
        return {k: len(v) for k, v in self.label_classes.items()}

    def draw_labels(self, index: int) -> dict[str, int]:
        """Draw the labels of a scene without generating its images.

        Args:
            index: index of the scene.

        Returns:
            The labels by key.

        Raises:
            IndexError: if ``index`` is out of range.

        Example:
            >>> sorted(SyntheticEO().draw_labels(0))
            ['label_common', 'label_s1', 'label_s2', 'label_synergy']
        """
        self._check_index(index)
        numbers = self.num_classes
        drawn = self._rng(index, 'labels').integers([numbers[k] for k in _DRAWN])
        return _with_synergy(dict(zip(_DRAWN, drawn.tolist(), strict=True)))

    def render(self, index: int, **labels: int) -> dict[str, Any]:
        """Generate a scene with given labels.

        Everything else, including the noise, is the same as in ``dataset[index]``, so any
        difference is an effect of the labels.

        Args:
            index: index of the scene.
            labels: values for ``label_common``, ``label_s1`` or ``label_s2``.

        Returns:
            A dictionary with the following keys.

            - ``image_<m>``: image of modality m, float32, shape (C, H, W), or
              (T, C, H, W) for several dates. ``s1`` has VV and VH in dB, ``s2`` has 13
              bands in digital numbers, ``dem`` has heights in m, and ``rgb`` has values
              from 0 to 255.
            - ``label_common``, ``label_s1``, ``label_s2`` and ``label_synergy``:
              integers, shape ().
            - ``label``, with ``multilabel``: target of shape (20,) with 0 and 1 for the
              classes of ``label_common``, ``label_s1`` and ``label_s2``.
            - ``mask``: land cover, shape (H, W).

        Raises:
            IndexError: if ``index`` is out of range.
            ValueError: if a label is unknown, or its value is out of range.

        Example:
            >>> dataset = SyntheticEO(size=32)
            >>> a, b = (dataset.render(0, label_s1=i) for i in range(2))
            >>> torch.equal(a['image_s2'], b['image_s2'])
            True
        """
        for name, value in labels.items():
            if name not in _DRAWN:
                raise ValueError(f'labels must be among {list(_DRAWN)}, got {name!r}')
            if not 0 <= value < self.num_classes[name]:
                raise ValueError(
                    f'{name} must be in [0, {self.num_classes[name] - 1}], got {value}'
                )
        chosen = _with_synergy({**self.draw_labels(index), **labels})
        streams = partial(self._rng, index)
        place = make_place(chosen['label_common'], self._fields, streams)
        sample: dict[str, Any] = {
            **self._images(
                index, lambda m, date: self._image(m, place, chosen, streams, date)
            )
        }
        for name, value in chosen.items():
            sample[name] = torch.tensor(value)
        if self.multilabel:
            hot = [one_hot(sample[k], self.num_classes[k]) for k in _DRAWN]
            sample['label'] = torch.cat(hot)
        sample['mask'] = torch.from_numpy(place.cover)
        return sample

    def with_modalities(self, modalities: Sequence[str], length: int) -> Self:
        """Return a dataset of the first scenes with other modalities.

        Args:
            modalities: names of one or more modalities, as in the constructor.
            length: number of scenes.

        Returns:
            A dataset with the same terrain, labels and dates, without transforms.
        """
        return type(self)(
            length,
            self.size,
            self.seed,
            modalities,
            self.num_dates,
            self.common_strength,
            self.unique_strength,
        )

    def write(
        self,
        root: str | Path,
        layout: str,
        num_scenes: int | None = None,
        progress: bool = True,
        **options: Any,
    ) -> None:
        """Write scenes to files in the directory layout of a real dataset.

        The directory is written atomically.

        Args:
            root: new or empty directory.
            layout: 'ssl4eo_s12', 'bigearthnet_v2' or 'geonrw', described in
                ``torchgeo_decur.datasets.synthetic.layouts``.
            num_scenes: number of scenes to write. By default, all scenes are written.
            progress: whether to show a progress bar.
            options: options of the layout: ``surface`` (SSL4EO-S12), ``splits``
                (BigEarthNet) or ``cities`` (GeoNRW).

        Raises:
            ValueError: if the layout or an option is unknown, the layout does not support
                the image size, ``num_scenes`` is out of range, or ``root`` is not empty.
        """
        write(self, root, layout, num_scenes, progress, **options)

    def plot(
        self,
        sample: dict[str, Any],
        show_titles: bool = True,
        suptitle: str | None = None,
    ) -> Figure:
        """Plot the images and the land cover of a sample.

        Args:
            sample: a sample of this dataset, in physical units. A ``prediction`` with the
                shape of the land cover is also shown.
            show_titles: whether to show panel titles.
            suptitle: title of the figure. By default, it lists the labels.

        Returns:
            The figure, with one row per date.
        """
        if suptitle is None and show_titles:
            names = [
                self.label_classes[k][int(sample[k])] for k in _DRAWN if k in sample
            ]
            suptitle = ' | '.join(names)
        masks = {'land cover': sample['mask']}
        prediction = sample.get('prediction')
        # Predicted labels are not maps.
        if prediction is not None and prediction.shape == sample['mask'].shape:
            masks['prediction'] = prediction
        return plot_images(
            self._present_images(sample),
            self._records,
            masks,
            self.classes,
            self.colormap,
            show_titles,
            suptitle,
        )

    def _draw_available(self) -> NDArray[np.bool_]:
        found = np.ones((len(self.modalities), self.length), dtype=bool)
        for index in range(self.length if self.paired < 1 else 0):
            rng = self._rng(index, 'absent')
            if rng.random() >= self.paired:
                found[:, index] = False
                found[rng.integers(len(self.modalities)), index] = True
        return found

    def _rng(self, index: int, stream: str, date: int = 0) -> np.random.Generator:
        key = (self.seed, index, _STREAMS.index(stream), date)
        return np.random.default_rng(key)

    def _image(
        self,
        modality: str,
        place: Place,
        labels: dict[str, int],
        streams: Callable[..., np.random.Generator],
        date: int,
    ) -> Floats:
        """Generate the image of one modality for one date, shape (C, H, W)."""
        contrast = (self.common_strength, self.unique_strength)
        season = date / self.num_dates
        if modality == 's1':
            state = labels['label_s1']
            return sentinel1(place, self._fields, streams, state, date, *contrast)
        state = labels['label_s2']
        if modality == 's2' and self._grain is not None:
            return sentinel2(
                place,
                self._fields,
                streams,
                state,
                self._grain,
                season,
                date,
                *contrast,
            )
        if modality == 'rgb':
            return aerial(place, self._fields, streams, state, season, date, *contrast)
        return surface_model(place, streams, self.common_strength)


_DRAWN = ('label_common', 'label_s1', 'label_s2')


def _with_synergy(labels: dict[str, int]) -> dict[str, int]:
    """Add ``label_synergy`` to the labels."""
    total = labels['label_s1'] + labels['label_s2']
    return {**labels, 'label_synergy': total % _SYNERGY}
