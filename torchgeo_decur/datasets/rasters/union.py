"""Union of rasters whose windows only some modalities may cover."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
import shapely
import torch
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry
from torchgeo.datasets.utils import GeoSlice, Sample

from ...modalities import invalid_pixels, mark_available
from .join import JoinedRasters, Window, outline


@dataclass(frozen=True)
class RasterUnion(JoinedRasters):
    """Co-registered rasters whose windows require only one modality.

    A modality is absent from a window if more than ``max_nodata`` of its pixels are
    missing. A modality without a nodata value is also absent if it does not cover the
    whole window. For map prediction, it is absent only if all pixels are missing. Absent
    images are zeros, and each sample has ``available_<m>`` for every modality.

    Args:
        channels: number of bands of each modality.
    """

    channels: Mapping[str, int] = field(default_factory=dict)
    area_name: ClassVar[str] = 'footprint'

    @property
    def _slack(self) -> float:
        """Fraction of a window that may be uncovered due to rounding."""
        return 0.04 / self.patch_size

    def files(self, parts: NDArray[np.object_]) -> NDArray[np.float64]:
        """Find a file for each polygon of the footprint.

        Args:
            parts: polygons within the footprint, shape (N,).

        Returns:
            Bounds of a file from the first dataset that covers the polygon, shape (N, 4).
        """
        bounds = np.zeros((len(parts), 4))
        left = np.arange(len(parts))
        for name in self._images:
            shapes = self.leaves[name].index.geometry
            tree = shapely.STRtree(shapes.to_numpy())
            found, files = tree.query(parts[left], predicate='intersects')
            order = np.argsort(files)[::-1]
            chosen = np.full(len(left), -1)
            # If there are several files, use the first so that a mosaic has a single grid.
            chosen[found[order]] = files[order]
            has = chosen >= 0
            bounds[left[has]] = shapes.bounds.to_numpy()[chosen[has]]
            left = left[~has]
        return bounds

    @cached_property
    def footprints(self) -> list[tuple[slice, BaseGeometry]]:
        """Sorted times and the area that any dataset covers at each time.

        Undated files are used at all times. They have a time of their own only where no
        dated files exist.
        """
        found = super().footprints
        dated = [shape for time, shape in found if not _is_undated(time)]
        if not dated or len(dated) == len(found):
            return found
        rest = [
            (time, shape.difference(shapely.union_all(dated)))
            if _is_undated(time)
            else (time, shape)
            for time, shape in found
        ]
        return [(time, shape) for time, shape in rest if not shape.is_empty]

    def coverage(self, name: str, windows: Sequence[GeoSlice]) -> NDArray[np.float64]:
        """Compute the fraction of each window that the files of a dataset cover.

        Args:
            name: name of the dataset.
            windows: slices of x, y and, for dated files, time.

        Returns:
            Fraction of each window, shape (N,).
        """
        boxes = np.array([outline(window) for window in windows], dtype=object)
        shares = np.zeros(len(boxes))
        groups: dict[tuple[Any, ...], list[int]] = {}
        for i, window in enumerate(windows):
            _, _, *time = cast(Window, window)
            key = (time[0].start, time[0].stop) if time else ()
            groups.setdefault(key, []).append(i)
        for key, members in groups.items():
            at = (slice(*key),) if key else ()
            area, own = self.area_of(name, at), boxes[members]
            found = shapely.covers(area, own).astype(np.float64)
            partly = (found == 0) & shapely.intersects(area, own)
            shared = shapely.intersection(area, own[partly])
            found[partly] = shapely.area(shared) / shapely.area(own[partly])
            shares[members] = found
        return shares

    def read(self, window: GeoSlice, names: Iterable[str] | None = None) -> Sample:
        """Read the rasters in a window and return zeros for images without a file.

        Args:
            window: slices of x, y and, for dated files, time.
            names: names of the datasets to read. By default, all datasets are read.

        Returns:
            The sample as in :meth:`JoinedRasters.read`.
        """
        chosen = list(self.leaves if names is None else names)
        shares = {name: self._covered(name, window) for name in chosen}
        present = [n for n, share in shares.items() if n == 'mask' or share > 0]
        if not present:
            present = [max(self._images, key=lambda n: self._covered(n, window))]
        sample = super().read(window, present)
        x, y, *_ = cast(Window, window)
        images: Sample = {}
        for n in chosen:
            if n != 'mask':
                xres, yres = self.leaves[n].res
                height = round((y.stop - y.start) / yres)
                width = round((x.stop - x.start) / xres)
                zeros = torch.zeros(self.channels[n], height, width)
                images[f'image_{n}'] = sample.get(f'image_{n}', zeros)
        rest = {k: v for k, v in sample.items() if not k.startswith('image_')}
        return {**images, **rest}

    def missing(
        self,
        sample: Mapping[str, Any],
        window: GeoSlice | None = None,
        whole: bool = False,
    ) -> dict[str, float]:
        """Compute the fraction of missing pixels in each modality.

        Args:
            sample: result of :meth:`read`.
            window: window of the sample, which must not be None.
            whole: if False, the fraction is 1 for a modality that has no nodata value and
                does not cover the whole window.

        Returns:
            Fractions by modality.

        Raises:
            ValueError: if the window is None.
        """
        if window is None:
            raise ValueError('window must be set for a union of rasters, got None')
        shares = {}
        for name in self._images:
            if f'image_{name}' not in sample:
                continue
            covered = self._covered(name, window)
            invalid = invalid_pixels(sample[f'image_{name}'], self.nodata[name])
            if not covered:
                shares[name] = 1.0
            elif invalid is not None:
                shares[name] = invalid.any(0).float().mean().item()
            else:
                outside = 1 - covered if covered < 1 - self._slack else 0.0
                shares[name] = outside if whole else float(outside > 0)
        return shares

    def usable(self, sample: Mapping[str, Any], window: GeoSlice | None = None) -> bool:
        """Check that at least one modality does not exceed ``max_nodata``."""
        return min(self.missing(sample, window).values()) <= self.max_nodata

    def deliver(self, sample: Sample, window: GeoSlice, whole: bool = False) -> Sample:
        """Add the availability of each modality and set absent images to 0.

        Args:
            sample: result of :meth:`read` with all modalities.
            window: window of the sample.
            whole: True for map prediction. A window without any valid pixel then keeps the
                modalities whose files cover it.

        Returns:
            A new sample with ``available_<m>``.
        """
        shares = self.missing(sample, window, whole)
        absent = {n for n, share in shares.items() if self._is_absent(share, whole)}
        if len(absent) == len(shares):
            absent = {n for n in absent if not self._covered(n, window)}
        images = {f'image_{n}': torch.zeros_like(sample[f'image_{n}']) for n in absent}
        return {**sample, **images, **mark_available(self._images, absent)}

    def find_available(
        self, windows: Sequence[GeoSlice], whole: bool = False
    ) -> dict[str, NDArray[np.bool_]]:
        """Compute the availability mask of each modality for a list of windows.

        Rasters with a nodata value are read. For other rasters, footprints are sufficient.

        Args:
            windows: slices of x, y and, for dated files, time.
            whole: True for map prediction, as in :meth:`deliver`.

        Returns:
            Boolean arrays by modality, shape (N,).
        """
        found = {}
        for name in self._images:
            shares = self.coverage(name, windows)
            has = shares > self._least
            if name not in self.marked:
                found[name] = has if whole else shares >= 1 - self._slack
                continue
            for i in np.flatnonzero(has).tolist():
                sample = self.read(windows[i], [name])
                share = self.missing(sample, windows[i], whole)[name]
                has[i] = not self._is_absent(share, whole)
            found[name] = has
        return found

    def estimate_available(
        self, name: str, windows: Sequence[GeoSlice]
    ) -> NDArray[np.bool_]:
        """Estimate the availability mask of a modality for a list of windows.

        The estimate is based on the footprints of the files. No file is read.

        Args:
            name: name of the modality.
            windows: slices of x, y and, for dated files, time.

        Returns:
            Boolean array, shape (N,).
        """
        most = self.max_nodata if name in self.marked else 0.0
        return self.coverage(name, windows) >= 1 - max(most, self._slack)

    @property
    def _images(self) -> list[str]:
        return [name for name in self.leaves if name != 'mask']

    @property
    def _least(self) -> float:
        """Fraction of a window that corresponds to a quarter of a pixel."""
        return 0.25 / self.patch_size**2

    def _is_absent(self, share: float, whole: bool) -> bool:
        return share >= 1 if whole else share > self.max_nodata

    def _covered(self, name: str, window: GeoSlice) -> float:
        share = float(self.coverage(name, [window])[0])
        return share if share > self._least else 0.0


def _is_undated(time: slice) -> bool:
    # TorchGeo assigns the earliest pandas timestamp to undated files.
    return bool(time.start.year == pd.Timestamp.min.year)
