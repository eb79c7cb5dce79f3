"""Base class for datasets that read files."""

import copy
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import rasterio
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torchgeo.datasets import NonGeoDataset
from torchgeo.datasets.utils import Sample

from ..files import UnreadableFileError as UnreadableFileError
from ..modalities import Conversion, Modality, conversions, converted, mark_available
from .io import GDAL_OPTIONS
from .plotting import describe_label, plot_images


class FileDataset(NonGeoDataset):
    """Base class for datasets that read files, which may be missing or damaged.

    Subclasses set the attributes and read one sample in :meth:`load`.

    Attributes:
        samples: one item per sample, in order. Each item is an argument for :meth:`load`.
        modalities: definition of each modality.
        conversions: conversion from file values to the unit of each modality.
        lacking: absent modalities of each incomplete item. If there are incomplete
            items, samples have ``available_<m>`` for every modality.
        left_out: names of samples omitted because a file is missing.
        classes: class names of labels and masks.
        colormap: colors of the mask classes.
        transforms: function that transforms each sample and returns a new one.
        skip_unreadable: whether to replace a sample that has an unreadable file with the
            next readable sample, cyclically. Otherwise, an error is raised.
        unreadable: items that this process could not read.
    """

    samples: Sequence[Any]
    modalities: Mapping[str, Modality]
    conversions: Mapping[str, Conversion] = {}
    lacking: Mapping[Any, frozenset[str]] = {}
    left_out: Sequence[str] = ()
    classes: tuple[str, ...] = ()
    colormap: Colormap | str = 'tab20'
    transforms: Callable[[Sample], Sample] | None = None
    skip_unreadable: bool = False
    unreadable: frozenset[Any] = frozenset()

    @abstractmethod
    def load(self, item: Any) -> Sample:
        """Read one sample.

        Args:
            item: an element of ``samples``.

        Returns:
            The sample, before ``transforms``. Images of absent modalities are zeros.

        Raises:
            UnreadableFileError: if a file is missing, truncated or not a raster.
        """

    @property
    def availability(self) -> dict[str, NDArray[np.bool_]]:
        """Boolean array per modality that is True for samples with this modality."""
        absent = [self.lacking.get(item, frozenset()) for item in self.samples]
        return {
            m: np.fromiter((m not in names for names in absent), bool, len(absent))
            for m in self.modalities
        }

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """Read a sample, convert its values to units and apply ``transforms``.

        Args:
            index: index of the sample.

        Returns:
            The sample. With ``skip_unreadable``, an unreadable sample is replaced with
            the next readable one.

        Raises:
            IndexError: if ``index`` is out of range.
            UnreadableFileError: if the sample is unreadable or, with ``skip_unreadable``,
                if all samples are unreadable.
        """
        if not 0 <= index < len(self):
            raise IndexError(f'index must be in [0, {len(self) - 1}], got {index}')
        for step in range(len(self)):
            item = self.samples[(index + step) % len(self)]
            if item in self.unreadable:
                continue
            try:
                with rasterio.Env(**GDAL_OPTIONS):
                    sample = self.load(item)
            except UnreadableFileError as error:
                if not self.skip_unreadable:
                    raise
                self._skip(item, error)
                continue
            absent = self.lacking.get(item, frozenset())
            for m, convert in self.conversions.items():
                if m not in absent:
                    sample[f'image_{m}'] = convert(sample[f'image_{m}'])
            if self.lacking:
                sample |= mark_available(self.modalities, absent)
            return sample if self.transforms is None else self.transforms(sample)
        raise UnreadableFileError(
            f'expected at least one readable sample, found none among {len(self)}; restore '
            'the files'
        )

    def __getitems__(self, indices: list[int]) -> list[Sample]:
        """Read the samples of a batch and check that their sizes match.

        Args:
            indices: indices of the samples.

        Raises:
            UnreadableFileError: if a sample is unreadable, as in :meth:`__getitem__`.
            ValueError: if the tensors of a key differ in shape.
        """
        samples = [self[i] for i in indices]
        shapes = [
            {k: tuple(x.shape) for k, x in s.items() if isinstance(x, Tensor)}
            for s in samples
        ]
        for index, sizes in zip(indices, shapes, strict=True):
            if differ := [k for k, v in sizes.items() if v != shapes[0].get(k, v)]:
                key = differ[0]
                first, other = (
                    self.origin(self.samples[i], key) for i in (indices[0], index)
                )
                raise ValueError(
                    f'{other}: expected {key} of shape {shapes[0][key]} as in {first} of the '
                    f'same batch, found shape {sizes[key]}; set a common size, such as '
                    '`size: [256, 256]`, or set `batch_size: 1` if you do not train'
                )
        return samples

    def convert(self, entries: Mapping[str, Mapping[str, Any]] | None) -> None:
        """Set the conversion from file values to units that precedes ``transforms``.

        Args:
            entries: ``scale``, ``offset`` and ``nodata`` by modality. Modalities without
                an entry are not converted.

        Raises:
            ValueError: if a modality, key or value is invalid.
        """
        self.conversions = conversions(self.modalities, entries)
        self.modalities = converted(self.modalities, entries)

    def origin(self, item: Any, key: str) -> str:
        """Return the origin of a value for error messages.

        By default, the origin is the name of the sample. Subclasses may return a path.

        Args:
            item: an element of ``samples``.
            key: sample key, such as ``mask``.
        """
        return str(item)

    def sample_names(self) -> list[str]:
        """Return the name of each sample, in order."""
        return [str(item) for item in self.samples]

    def subset(self, indices: Iterable[int]) -> Self:
        """Return a copy of the dataset with only the given samples.

        Unlike :class:`torch.utils.data.Subset`, the copy replaces unreadable samples only
        with samples of the subset.

        Args:
            indices: indices of the samples, in order.

        Returns:
            A dataset of the same class.
        """
        other = copy.copy(self)
        other.samples = [self.samples[i] for i in indices]
        other.unreadable = frozenset()
        return other

    def plot(
        self, sample: Sample, show_titles: bool = True, suptitle: str | None = None
    ) -> Figure:
        """Plot a sample.

        Args:
            sample: a sample of the dataset. Keys may be missing. A ``prediction`` with
                the shape of ``label`` or ``mask`` is also shown.
            show_titles: whether to show bands, dates and classes.
            suptitle: title of the figure.

        Returns:
            The figure, which the caller must close.
        """
        images = {
            m: sample[f'image_{m}']
            for m in self.modalities
            if f'image_{m}' in sample and sample.get(f'available_{m}', True)
        }
        known = {
            key: sample[key] for key in ('label', 'mask', 'prediction') if key in sample
        }
        lines = [suptitle] if suptitle is not None else []
        if show_titles:
            for key, label in known.items():
                if label.ndim < 2:
                    lines.append(f'{key}: {describe_label(label, self.classes)}')
        return plot_images(
            images,
            self.modalities,
            {key: mask for key, mask in known.items() if mask.ndim > 1},
            self.classes,
            self.colormap,
            show_titles=show_titles,
            suptitle='\n'.join(lines) or None,
        )

    def _skip(self, item: Any, error: UnreadableFileError) -> None:
        self.unreadable = self.unreadable | {item}
        count = len(self.unreadable)
        # Warn only about the 1st, 10th, 100th, ... skipped sample.
        if str(count).rstrip('0') == '1':
            warnings.warn(
                f'skipped {count} of {len(self)} samples after read errors; last error: '
                f'{error}',
                stacklevel=3,
            )


def check_skip_incomplete(value: object) -> None:
    """Check the option ``skip_incomplete``.

    Args:
        value: value of the option.

    Raises:
        ValueError: if the value is not True, False or 'keep'.
    """
    if value not in (True, False, 'keep'):
        raise ValueError(
            f"skip_incomplete must be true, false or 'keep', got {value!r}"
        )
