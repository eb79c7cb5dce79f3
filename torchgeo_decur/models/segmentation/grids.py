"""Resample feature maps with different cell sizes to one grid."""

from collections.abc import Mapping, Sequence
from math import ceil

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

# Tolerance that keeps the rounding of sizes from adding or dropping a cell.
_EPSILON = 1e-6


def align_pyramids(
    pyramids: Mapping[str, Sequence[Tensor]],
    sizes: Mapping[str, Sequence[int]],
    size: Sequence[int],
    strides: Sequence[int],
    divisor: int = 1,
) -> dict[str, list[Tensor]]:
    """Resample the levels of all modalities to the grids of one reference image.

    All images cover the same area. If they already share one grid, nothing changes.

    Args:
        pyramids: levels by modality, finest first, shape (B, C, h, w).
        sizes: height and width of the image by modality.
        size: height and width of the reference image.
        strides: stride of each level.
        divisor: number that divides the image sizes after padding at the bottom and right.

    Returns:
        Levels by modality. Level i has the same height and width for all modalities.

    Example:
        >>> levels = {'a': [torch.rand(1, 8, 5, 5)], 's2': [torch.rand(1, 4, 2, 2)]}
        >>> sizes = {'a': (40, 40), 's2': (10, 10)}
        >>> [x.shape[-2:] for (x,) in align_pyramids(levels, sizes, (40, 40), [8]).values()]
        [torch.Size([5, 5]), torch.Size([5, 5])]
    """
    # Sizes of an exported program are symbols, which no set can hold.
    shapes = [[x.shape[-2:] for x in levels] for levels in pyramids.values()]
    aligned = all(tuple(s) == tuple(size) for s in sizes.values())
    if aligned and all(s == shapes[0] for s in shapes):
        return {m: list(levels) for m, levels in pyramids.items()}
    whole = padded(size, divisor)
    own = next((pyramids[m] for m in pyramids if tuple(sizes[m]) == tuple(size)), None)
    moved: dict[str, list[Tensor]] = {m: [] for m in pyramids}
    for i, stride in enumerate(strides):
        cells = [ceil(n / stride) for n in whole] if own is None else own[i].shape[-2:]
        for m, levels in pyramids.items():
            x, image = levels[i], sizes[m]
            # Height and width of a cell, as a fraction of the covered area.
            wanted = [p / n / s for p, n, s in zip(whole, cells, size, strict=True)]
            given = [
                p / n / s
                for p, n, s in zip(
                    padded(image, divisor), x.shape[-2:], image, strict=True
                )
            ]
            step = [a / b for a, b in zip(wanted, given, strict=True)]
            moved[m].append(resample_cells(x, cells, step))
    return moved


def resample_cells(x: Tensor, cells: Sequence[int], step: Sequence[float]) -> Tensor:
    """Resample a feature map bilinearly to other cells, starting at its top left corner.

    Larger cells are averages of smaller cells (antialiasing). Beyond the bottom and right
    edges of the feature map, its last cells are repeated.

    Args:
        x: feature map, shape (B, C, h, w).
        cells: number of rows and columns of the result.
        step: height and width of an output cell, in cells of ``x``.

    Returns:
        The resampled feature map, shape (B, C, ``*cells``), same dtype.

    Example:
        >>> x = torch.tensor([1.0, 3.0, 5.0, 7.0]).reshape(1, 1, 1, 4)
        >>> resample_cells(x, (1, 3), (1, 1)).flatten()
        tensor([1., 3., 5.])
    """
    same = all(abs(s - 1) < _EPSILON for s in step)
    # Number of cells that the result needs, including the margin of the filter.
    margin = [0 if same else ceil(max(s, 1)) for s in step]
    ends = [ceil(n * s - _EPSILON) for n, s in zip(cells, step, strict=True)]
    height, width = (
        min(n, end + m) for n, end, m in zip(x.shape[-2:], ends, margin, strict=True)
    )
    x = x[..., :height, :width]
    bottom, right = max(ends[0] - height, 0), max(ends[1] - width, 0)
    if bottom or right:
        x = pad(x, (0, right, 0, bottom), mode='replicate')
    if same:
        return x
    scale = [(1 + _EPSILON**2) / s for s in step]
    # interpolate copies an axis that keeps its number of cells.
    if any(
        int(n * f) == n and abs(s - 1) >= _EPSILON
        for n, f, s in zip(x.shape[-2:], scale, step, strict=True)
    ):
        return resample_tokens(
            x, cells, [n * s for n, s in zip(cells, step, strict=True)]
        )
    # There is no antialiased kernel for half precision.
    exact = torch.promote_types(x.dtype, torch.float32)
    moved = interpolate(
        x.to(exact), scale_factor=scale, mode='bilinear', antialias=True
    )
    return moved[..., : cells[0], : cells[1]].to(x.dtype)


def resample_tokens(x: Tensor, cells: Sequence[int], size: Sequence[float]) -> Tensor:
    """Resample the top left part of a feature map bilinearly to other cells.

    If the part lies within the map, the result is the same as from
    :func:`resample_cells`. The function uses two matrix products and no branch that
    depends on a size. An exported program is therefore valid for all sizes. The matrix
    products are fast only for small maps.

    Args:
        x: feature map, shape (B, C, h, w).
        cells: number of rows and columns of the result.
        size: height and width of the part, in cells of ``x``.

    Returns:
        The resampled feature map, shape (B, C, ``*cells``), same dtype.

    Example:
        >>> x = torch.tensor([1.0, 3.0, 5.0, 7.0]).reshape(1, 1, 1, 4)
        >>> resample_tokens(x, (1, 2), (1, 4)).flatten()
        tensor([2.4286, 5.5714])
    """
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    rows, columns = (
        _filter(n, number, extent, exact)
        for n, number, extent in zip(x.shape[-2:], cells, size, strict=True)
    )
    with torch.autocast(x.device.type, enabled=False):
        return (rows @ exact @ columns.T).to(x.dtype)


def _filter(size: int, cells: int, extent: float, like: Tensor) -> Tensor:
    """Return the weights of an antialiased bilinear filter, shape (``cells``, ``size``)."""
    step = extent / cells
    index, wanted = (
        torch.arange(n, dtype=like.dtype, device=like.device) for n in (size, cells)
    )
    distance = (index + 0.5) - (wanted[:, None] + 0.5) * step
    width = torch.clamp(torch.ones_like(wanted[:1]) * step, min=1)
    weight = (1 - distance.abs() / width).clamp(min=0)
    return weight / weight.sum(1, keepdim=True)


def pad_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Pad images by repeating their last row and column.

    Args:
        x: images, shape (B, C, H, W).
        size: height and width of the result, at least H and W.

    Returns:
        Images, shape (B, C, ``*size``).
    """
    bottom, right = (a - b for a, b in zip(size, x.shape[-2:], strict=True))
    # An exported program must not branch on the size, so it always pads.
    if not torch.compiler.is_compiling() and not bottom and not right:
        return x
    return pad(x, (0, right, 0, bottom), mode='replicate')


def crop_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Crop maps to their top left part.

    Args:
        x: maps, shape (B, C, H, W).
        size: height and width of the result, at most H and W.

    Returns:
        Maps, shape (B, C, ``*size``).
    """
    height, width = size
    # The memory layout of a slice would make an exported program valid for one size only.
    if torch.compiler.is_compiling():
        return pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))
    return x[..., :height, :width]


def padded(size: Sequence[int], divisor: int) -> list[int]:
    """Round a size up to multiples of a divisor."""
    # ONNX truncates quotients of negative numbers, so not -(-n // divisor).
    return [(n + divisor - 1) // divisor * divisor for n in size]
