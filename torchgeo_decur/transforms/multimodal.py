"""Transforms that keep modalities apart, and the scale of the input contract."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..modalities import Modality, check_names, invalid_pixels


class ToModalities:
    """Rename ``image`` of one dataset to ``image_<modality>``.

    Give each leaf of ``dataset1 & dataset2`` its own instance in ``transforms=``: the
    joined sample then has one key per modality and needs no collate function.

    Args:
        modality: name of the modality.

    Example:
        >>> sorted(ToModalities('s1')({'image': torch.zeros(2, 4, 4)}))
        ['image_s1']
    """

    def __init__(self, modality: str) -> None:
        """Initialize a new ToModalities instance."""
        self.modality = modality

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Rename the key of the image.

        Args:
            sample: has ``image``, shape (C, H, W).

        Returns:
            A new sample with ``image_<modality>`` instead.

        Raises:
            ValueError: if the sample has no ``image``.
        """
        if 'image' not in sample:
            raise ValueError(
                f'{self.modality}: expected a sample with image, found {sorted(sample)}'
            )
        rest = {k: v for k, v in sample.items() if k != 'image'}
        return {**rest, f'image_{self.modality}': sample['image']}


class PerModality(nn.Module):
    """Apply one module per modality to the images of a batch.

    Args:
        modules: module for each modality, by name; others pass through.

    Raises:
        ValueError: if a name is not valid.

    Example:
        >>> double = PerModality({'s1': nn.Upsample(scale_factor=2)})
        >>> double({'image_s1': torch.zeros(1, 2, 4, 4)})['image_s1'].shape
        torch.Size([1, 2, 8, 8])
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        """Initialize a new PerModality instance."""
        super().__init__()
        check_names(modules)
        self.per_modality = nn.ModuleDict(dict(modules))

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Apply the modules.

        Args:
            batch: ``image_<m>`` of some modalities, and anything else.

        Returns:
            A new batch; keys without a module are the same objects.
        """
        changed = {
            f'image_{m}': module(batch[f'image_{m}'])
            for m, module in self.per_modality.items()
            if f'image_{m}' in batch
        }
        return {**batch, **changed}


class SelectBands(nn.Module):
    """Pick bands by name, in the order asked for.

    Args:
        bands: names of the bands of the input, in order.
        select: names of the bands of the output, in order.

    Raises:
        ValueError: if a selected band is not among ``bands``.

    Example:
        >>> SelectBands(['VH', 'VV'], ['VV', 'VH'])(torch.tensor([[[1.0]], [[2.0]]]))[0]
        tensor([[2.]])
    """

    def __init__(self, bands: Sequence[str], select: Sequence[str]) -> None:
        """Initialize a new SelectBands instance."""
        super().__init__()
        unknown = [b for b in select if b not in bands]
        if unknown:
            raise ValueError(f'select must be among {list(bands)}, got {unknown}')
        self.index = [list(bands).index(b) for b in select]

    def forward(self, x: Tensor) -> Tensor:
        """Pick the bands.

        Args:
            x: images, shape (..., C, H, W).

        Returns:
            Images of the selected bands, shape (..., C', H, W).
        """
        return x[..., self.index, :, :]


class PadBands(nn.Module):
    """Insert constant bands, so that data of fewer bands fit an encoder of more.

    Args:
        bands: names of the bands of the input, in order.
        target: names of the bands of the output, in order; those that the input does
            not have are filled.
        value: the value of filled bands.

    Raises:
        ValueError: if the target leaves out a band of the input.

    Example:
        >>> PadBands(['B9', 'B11'], ['B9', 'B10', 'B11'])(torch.ones(2, 1, 1)).squeeze()
        tensor([1., 0., 1.])
    """

    def __init__(
        self, bands: Sequence[str], target: Sequence[str], value: float = 0.0
    ) -> None:
        """Initialize a new PadBands instance."""
        super().__init__()
        lost = [b for b in bands if b not in target]
        if lost:
            raise ValueError(f'target must have every band of the input, lacks {lost}')
        self.index = [list(target).index(b) for b in bands]
        self.channels = len(target)
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        """Insert the bands.

        Args:
            x: images, shape (..., C, H, W).

        Returns:
            Images, shape (..., C', H, W).
        """
        shape = (*x.shape[:-3], self.channels, *x.shape[-2:])
        out = x.new_full(shape, self.value)
        out[..., self.index, :, :] = x
        return out


class ScaleToUnit(nn.Module):
    r"""Map the physical values of one modality to the unit interval.

    With known limits :math:`l, u` of each band (mean :math:`\mp` 2 std; 0 and 255 for
    bytes)

    .. math:: y = \frac{\min(\max(x, l), u) - l}{u - l}.

    Without limits (elevation, depth), :math:`l, u` are the 1st and 99th percentile of
    the band in each patch, so that terrain shapes count and absolute height does not; a
    flat patch becomes 0.5 everywhere.

    Pixels of the modality's ``nodata`` value count in no percentile and become 0.5,
    the middle of the interval: after an encoder's normalisation the least surprising
    value.

    Args:
        modality: what the images hold: a :class:`~torchgeo_decur.modalities.Modality`,
            a known name, or a dictionary of its fields.

    Raises:
        ValueError: if the modality is neither elevation, depth nor bytes and has no
            statistics.

    Example:
        >>> scale = ScaleToUnit('sentinel1_grd')
        >>> scale(torch.tensor([-12.59, -100.0]).reshape(1, 2, 1, 1)).flatten()
        tensor([0.5000, 0.0000])
    """

    low: Tensor | None
    high: Tensor | None
    fill = 0.5

    def __init__(self, modality: Modality | str | Mapping[str, Any]) -> None:
        """Initialize a new ScaleToUnit instance."""
        super().__init__()
        self.modality = Modality.of(modality)
        limits = self.modality.limits
        if limits is None and self.modality.kind not in ('elevation', 'depth'):
            raise ValueError(
                f'{self.modality.kind} bands {list(self.modality.bands)} need mean and '
                f'std to be scaled, got none; give them, or the unit uint8'
            )
        low, high = limits or (None, None)
        for name, values in (('low', low), ('high', high)):
            tensor = None if values is None else torch.tensor(values).reshape(-1, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scale images.

        Args:
            x: images in the unit of the modality, shape (..., C, H, W).

        Returns:
            Images in [0, 1], same shape, floating point. Half precision is scaled in
            float32, but what it lost before is lost.
        """
        dtype = x.dtype if x.is_floating_point() else torch.float32
        invalid = invalid_pixels(x.to(dtype), self.modality.nodata)
        x = x.to(torch.promote_types(dtype, torch.float32))
        if self.low is None or self.high is None:
            low, high = _percentiles(x, invalid, (0.01, 0.99))
        else:
            low, high = self.low.to(x), self.high.to(x)
        flat = high <= low
        out = (x.clamp(low, high) - low) / torch.where(
            flat, torch.ones_like(high), high - low
        )
        out = torch.where(flat, self.fill, out).to(dtype)
        return out if invalid is None else out.masked_fill(invalid, self.fill)


def _percentiles(
    x: Tensor, invalid: Tensor | None, q: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Two quantiles of each band and patch, shape (..., C, 1, 1), NaN-free."""
    values = x if invalid is None else x.masked_fill(invalid, torch.nan)
    # Sorting puts NaN last; torch.quantile refuses more than 2**24 elements.
    ordered = values.flatten(-2).float().sort(dim=-1).values
    last = (ordered.isnan().logical_not().sum(-1, keepdim=True) - 1).clamp(min=0)
    limits = []
    for fraction in q:
        position = fraction * last
        below = ordered.gather(-1, position.floor().long())
        above = ordered.gather(-1, position.ceil().long())
        limits.append(below.lerp(above, position.frac())[..., None].nan_to_num())
    return limits[0].to(x.dtype), limits[1].to(x.dtype)
