"""Scale physical values to the unit interval."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..modalities import Modality, invalid_pixels


class ScaleToUnit(nn.Module):
    r"""Transform that scales the physical values of one modality to the unit interval.

    Each band has a lower limit :math:`l` and an upper limit :math:`u`, which are mean
    :math:`\mp` 2 std, or 0 and 255 for bytes. A value :math:`x` becomes

    .. math:: y = \frac{\min(\max(x, l), u) - l}{u - l}.

    For elevation and depth without statistics, the limits are the 1st and 99th percentiles
    of the band in each patch. Absolute heights then have no effect, and a flat patch
    becomes 0.5 everywhere.

    Nodata pixels are excluded from percentiles and become 0.5.

    Args:
        modality: modality of the images, as a
            :class:`~torchgeo_decur.modalities.Modality`, the name of a predefined modality
            or a dictionary of fields.

    Raises:
        ValueError: if the modality has no statistics and is neither elevation, depth nor
            bytes.

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
                f'{self.modality.kind} bands {list(self.modality.bands)} must have mean '
                'and std for scaling, got none; set mean and std, or `unit: uint8` for bytes'
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
            Floating-point images in [0, 1], same shape. Half precision is scaled in
            float32.
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
    """Compute two quantiles of each band and patch, shape (..., C, 1, 1), ignoring NaN."""
    values = x if invalid is None else x.masked_fill(invalid, torch.nan)
    # torch.quantile fails for more than 2**24 elements. Sorting puts NaN last.
    ordered = values.flatten(-2).float().sort(dim=-1).values
    last = (ordered.isnan().logical_not().sum(-1, keepdim=True) - 1).clamp(min=0)
    limits = []
    for fraction in q:
        position = fraction * last
        below = ordered.gather(-1, position.floor().long())
        above = ordered.gather(-1, position.ceil().long())
        limits.append(below.lerp(above, position.frac())[..., None].nan_to_num())
    return limits[0].to(x.dtype), limits[1].to(x.dtype)
