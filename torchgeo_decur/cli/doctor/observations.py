"""Read samples, and keep only the properties that the checks need."""

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

# Values to keep of each band and image.
_VALUES = 512


@dataclass(frozen=True)
class Target:
    """Labels of a sample.

    Args:
        values: distinct values; for zeros and ones of several labels, their indices.
        counts: number of pixels with each value, or 1.
        length: number of labels of a multi-label target, otherwise 0.
    """

    values: tuple[float, ...]
    counts: tuple[int, ...]
    length: int = 0


@dataclass
class Observation:
    """Properties of a sample for the checks.

    Args:
        split: name of the split.
        index: number of the sample.
        name: name of the sample.
        error: message, if the sample cannot be read.
        faults: message for each modality whose image cannot be used.
        absent: modalities that the sample lacks.
        shapes: shape of each image.
        hashes: hash of the pixels of each image that is not constant.
        values: sampled values of each modality, with one image for each date.
        edges: edge maps of the first date of some samples.
        dates: seconds since 1970 of each date, by modality.
        targets: labels by key.
        bounds: west, south, east and north, if samples have them.
        grids: grid of the file of each modality, if it is known.
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
        """Split and name."""
        return f'{self.split} {self.name}'

    def pixel_width(self, name: str) -> float | None:
        """Return the width of a pixel of a modality in metres, if it is known."""
        grid = self.grids.get(name)
        # A file of another size was resized, or the sample is a part of it.
        if grid is None or grid.shape != self.shapes.get(name, ())[-2:]:
            return None
        return grid.metres


class Observed(Dataset[Observation]):
    """Observations of some samples of several splits.

    Args:
        datasets: dataset of each split.
        chosen: split and number of each sample.
        modalities: record of each modality.
        names: name of each sample of the splits that have names.
        max_edges: largest number of samples with edge maps.
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
        """Return the number of samples."""
        return len(self.chosen)

    def __getitem__(self, number: int) -> Observation:
        """Read a sample.

        Args:
            number: number of the sample among the chosen ones.
        """
        split, index = self.chosen[number]
        names = self.names.get(split, ())
        seen = Observation(split, index, names[index] if names else str(index))
        try:
            sample = self.datasets[split][index]
        # Any error of a reader is a finding.
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
            # West, east, the width of a pixel, south, north, and its height.
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
            seen.faults[name] = f'expected {key} in the sample, found {sorted(sample)}'
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
        if with_edges:
            first = image[0] if image.ndim > 3 else image
            missing = invalid_pixels(first, modality.nodata)
            x = (
                first.float()
                if missing is None
                else (first.float().masked_fill(missing, torch.nan))
            )
            seen.edges[name] = edge_map(x.numpy())

    def _locate(self, seen: Observation, split: str, index: int) -> None:
        """Read the grids of the files of a sample."""
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
    """Return a dataset that does not replace unreadable samples."""
    if not getattr(dataset, 'skip_unreadable', False):
        return dataset
    strict = copy.copy(dataset)
    strict.skip_unreadable = False
    return strict


def _is_target(key: str, value: object) -> bool:
    named = key == 'mask' or key.split('_')[0] == 'label'
    # Floating-point targets are numbers, not classes.
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
