"""Deformable attention in float64, with loops over queries, keys, heads and groups."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def attend(
    state: Mapping[str, Tensor], x: Tensor, heads: int, groups: int, stride: int
) -> tuple[Array, Array]:
    """Compute attention from parameters with their published names.

    Args:
        state: parameters, without a prefix.
        x: map of one sample, shape (C, H, W).
        heads: number of heads.
        groups: number of groups.
        stride: stride of the key grid.

    Returns:
        Attended map without the residual, shape (C, H, W), and the points (x, y), shape
        (groups, H_k, W_k, 2).
    """
    p = {k: v.detach().double().numpy() for k, v in state.items()}
    image: Array = x.detach().double().numpy()
    channels, height, width = image.shape
    wide = channels // groups

    def project(name: str, vector: Array) -> Array:
        kernel = p[f'proj_{name}.weight'][:, :, 0, 0]
        return kernel @ vector + p[f'proj_{name}.bias']

    queries = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            queries[:, i, j] = project('q', image[:, i, j])

    rows, columns = math.ceil(height / stride), math.ceil(width / stride)
    points = np.zeros((groups, rows, columns, 2))
    samples = np.zeros((channels, rows, columns))
    for g in range(groups):
        part = slice(g * wide, (g + 1) * wide)
        for a in range(rows):
            for b in range(columns):
                dy, dx = offset(p, queries[part], a * stride, b * stride)
                y = min(max(reference(a, rows) + dy, -1.0), 1.0)
                x_ = min(max(reference(b, columns) + dx, -1.0), 1.0)
                points[g, a, b] = x_, y
                samples[part, a, b] = bilinear(image[part], y, x_)

    keys, values = np.zeros_like(samples), np.zeros_like(samples)
    for a in range(rows):
        for b in range(columns):
            keys[:, a, b] = project('k', samples[:, a, b])
            values[:, a, b] = project('v', samples[:, a, b])

    out = np.zeros_like(image)
    size, shared = channels // heads, heads // groups
    for i in range(height):
        for j in range(width):
            scores = np.zeros((heads, rows, columns))
            for g in range(groups):
                tables = p['rpe_table'][g * shared : (g + 1) * shared]
                for a in range(rows):
                    for b in range(columns):
                        x_, y = points[g, a, b].tolist()
                        away_y = (centre(i, height) - y) / 2
                        away_x = (centre(j, width) - x_) / 2
                        biases = bilinear(tables, away_y, away_x)
                        scores[g * shared : (g + 1) * shared, a, b] = biases
            attended = np.zeros(channels)
            for h in range(heads):
                part = slice(h * size, (h + 1) * size)
                for a in range(rows):
                    for b in range(columns):
                        similar = queries[part, i, j] @ keys[part, a, b]
                        scores[h, a, b] += similar / math.sqrt(size)
                weights = np.exp(scores[h] - scores[h].max())
                attended[part] = (values[part] * weights / weights.sum()).sum((1, 2))
            out[:, i, j] = project('out', attended)
    return out, points


def offset(p: Mapping[str, Array], queries: Array, i: int, j: int) -> tuple[float, ...]:
    """Return the offset (y, x) of the key whose convolution is centred at a query."""
    kernel = p['conv_offset.0.weight'][:, 0]
    half = kernel.shape[-1] // 2
    hidden = p['conv_offset.0.bias'].copy()
    for u in range(-half, half + 1):
        for v in range(-half, half + 1):
            if 0 <= i + u < queries.shape[1] and 0 <= j + v < queries.shape[2]:
                hidden += kernel[:, half + u, half + v] * queries[:, i + u, j + v]
    hidden = (hidden - hidden.mean()) / math.sqrt(hidden.var() + 1e-5)
    hidden = hidden * p['conv_offset.1.norm.weight'] + p['conv_offset.1.norm.bias']
    hidden = np.array([h * (1 + math.erf(h / math.sqrt(2))) / 2 for h in hidden])
    return tuple(p['conv_offset.3.weight'][:, :, 0, 0] @ hidden)


def reference(index: int, count: int) -> float:
    return (index + 0.5) / (count - 1) * 2 - 1 if count > 1 else 0.0


def centre(index: int, count: int) -> float:
    return index / (count - 1) * 2 - 1 if count > 1 else 0.0


def bilinear(image: Array, y: float, x: float) -> Array:
    """Interpolate between pixels; the outer centres have the coordinates -1 and 1."""
    _, height, width = image.shape
    row, column = (y + 1) / 2 * (height - 1), (x + 1) / 2 * (width - 1)
    top, left = math.floor(row), math.floor(column)
    value = np.zeros(len(image))
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < height and 0 <= j < width:
                weight = (1 - abs(row - i)) * (1 - abs(column - j))
                value += weight * image[:, i, j]
    return value
