"""Read samples and keep only the properties that the checks use."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Subset

from ...datasets.base import FileDataset
from ...files import UnreadableFileError
from ...modalities import Modality, invalid_pixels
from ...modalities.sampled_values import Values
from ...modalities.validation import sample_values
from .edges import Map, edge_map
from .file_grids import Grid, read_grid

# Number of pixel values to keep per band and image.
_VALUES = 512


@dataclass(frozen=True)
class Target:
    """Labels of a sample.

    Args:
        values: distinct values, or the indices of the present labels of a multi-label
            target.
        counts: number of pixels with each value, or 1 for labels of a sample.
        length: number of labels of a multi-label target, otherwise 0.
    """

    values: tuple[float, ...]
    counts: tuple[int, ...]
    length: int = 0


@dataclass
class Observation:
    """Properties of a sample that the checks use.

    Args:
        split: name of the split.
        index: index of the sample in its split.
        name: name of the sample.
        error: error message if the sample cannot be read, otherwise ''.
        faults: error message for each modality with an invalid image.
        absent: modalities that are missing from the sample.
        shapes: image shape of each modality.
        hashes: pixel hash of each image that is not constant.
        values: sampled pixel values of each modality, with one image per date.
        edges: edge maps of the first date, computed only for some samples.
        dates: acquisition times of each modality, in seconds since 1970.
        targets: labels and masks by key.
        bounds: west, south, east and north, if the sample contains bounds.
        grids: pixel grid of the file of each modality, if known.
    """

    split: str
    index: int
    name: str
    error: str = ''
    faults: dict[str, str] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    values: dict[str, Values] = field(default_factory=dict)
    edges: dict[str, Map] = field(default_factory=dict)
    dates: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    targets: dict[str, Target] = field(default_factory=dict)
    bounds: tuple[float, ...] | None = None
    grids: dict[str, Grid] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Split and sample name, to identify the sample in messages."""
        return f'{self.split} {self.name}'

    def pixel_width(self, name: str) -> float | None:
        """Return the pixel width of a modality in meters, or None if it is unknown."""
        grid = self.grids.get(name)
        # If the sizes differ, the image was resized or cropped from the file.
        if grid is None or grid.shape != self.shapes.get(name, ())[-2:]:
            return None
        return grid.metres


class Observed(Dataset[Observation]):
    """Dataset of observations of chosen samples from several splits.

    Args:
        datasets: dataset of each split.
        chosen: split and index of each sample.
        modalities: metadata of each modality.
        names: sample names of the splits that have them.
        max_edges: maximum number of samples with edge maps.
    """

    def __init__(
        self,
        datasets: Mapping[str, Any],
        chosen: Sequence[tuple[str, int]],
        modalities: Mapping[str, Modality],
        names: Mapping[str, Sequence[str]],
        max_edges: int = 128,
    ) -> None:
        """Initialize a new Observed instance."""
        self.datasets = {split: _strict(x) for split, x in datasets.items()}
        self.chosen = chosen
        self.modalities = modalities
        self.names = names
        step = max(1, -(-len(chosen) // max_edges))
        self.step = step if len(modalities) > 1 else len(chosen) + 1

    def __len__(self) -> int:
        """Return the number of chosen samples."""
        return len(self.chosen)

    def __getitem__(self, number: int) -> Observation:
        """Read a sample and extract its properties.

        Args:
            number: index into ``chosen``.
        """
        split, index = self.chosen[number]
        names = self.names.get(split, ())
        seen = Observation(split, index, names[index] if names else str(index))
        try:
            sample = self.datasets[split][index]
        # Report any error raised by a reader as a finding.
        except Exception as error:
            text = str(error) or type(error).__name__
            kind = (
                ''
                if isinstance(error, ValueError | UnreadableFileError)
                else (f'{type(error).__name__}: ')
            )
            seen.error = f'{kind}{text}'
            return seen
        seen.absent = frozenset(
            m for m in self.modalities if not sample.get(f'available_{m}', True)
        )
        for m, modality in self.modalities.items():
            if m not in seen.absent:
                self._look(seen, sample, m, modality, number % self.step == 0)
        for key, value in sample.items():
            if _is_target(str(key), value):
                seen.targets[str(key)] = _target(value)
        if 'bounds' in sample:
            # Bounds are west, east, pixel width, south, north and pixel height.
            west, east, _, south, north, _ = sample['bounds'][:6].tolist()
            seen.bounds = (west, south, east, north)
        self._locate(seen, split, index)
        return seen

    def _look(
        self,
        seen: Observation,
        sample: Mapping[str, Any],
        name: str,
        modality: Modality,
        with_edges: bool,
    ) -> None:
        key = f'image_{name}'
        if key not in sample:
            seen.faults[name] = (
                f'expected {key} in the sample, found keys {sorted(sample)}; use the same '
                'modality names in the dataset and the datamodule'
            )
            return
        image: Tensor = sample[key]
        seen.shapes[name] = tuple(image.shape)
        number = _VALUES * modality.channels * (image.shape[0] if image.ndim > 3 else 1)
        try:
            values = sample_values(name, {name: image[None]}, modality, number)
        except ValueError as error:
            seen.faults[name] = str(error)
            return
        if values is None:
            return
        seen.values[name] = values
        array = image.numpy()
        if values.varying.any():
            seen.hashes[name] = blake2b(array.tobytes(), digest_size=16).hexdigest()
        if f'date_{name}' in sample:
            date = sample[f'date_{name}']
            seen.dates[name] = torch.as_tensor(date).reshape(-1).numpy()
        if with_edges and modality.kind != 'embedding':
            first = image[0] if image.ndim > 3 else image
            missing = invalid_pixels(first, modality.nodata)
            x = (
                first.float()
                if missing is None
                else (first.float().masked_fill(missing, torch.nan))
            )
            seen.edges[name] = edge_map(x.numpy())

    def _locate(self, seen: Observation, split: str, index: int) -> None:
        """Read the pixel grids of the files of a sample."""
        dataset: Any = self.datasets[split]
        while isinstance(dataset, Subset):
            index, dataset = dataset.indices[index], dataset.dataset
        if not isinstance(dataset, FileDataset):
            return
        for m in seen.shapes:
            path = Path(dataset.origin(dataset.samples[index], f'image_{m}'))
            if path.is_file() and (grid := read_grid(path)):
                seen.grids[m] = grid


def _strict(dataset: Any) -> Any:
    """Return a dataset that raises an error for unreadable samples."""
    if not getattr(dataset, 'skip_unreadable', False):
        return dataset
    strict = copy.copy(dataset)
    strict.skip_unreadable = False
    return strict


def _is_target(key: str, value: object) -> bool:
    named = key == 'mask' or key.split('_')[0] == 'label'
    # Floating-point targets are regression values, not classes.
    return (
        named
        and isinstance(value, Tensor)
        and value.numel() > 0
        and not value.is_floating_point()
    )


def _target(value: Tensor) -> Target:
    if value.ndim == 1 and value.numel() > 1:
        hot = value.nonzero().flatten().tolist()
        return Target(tuple(hot), (1,) * len(hot), value.numel())
    values, counts = value.unique(return_counts=True)
    return Target(tuple(values.tolist()), tuple(counts.tolist()))
