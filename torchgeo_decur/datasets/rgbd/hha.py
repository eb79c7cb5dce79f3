r"""HHA: the geometry of a depth image in three channels.

These are horizontal disparity, height above ground and angle with gravity (Gupta et al., ECCV 2014,
https://arxiv.org/abs/1407.5736). A pixel at column :math:`c` and row :math:`r` of depth
:math:`z` (m, along the axis of the camera) is the point

.. math:: P = z\,(u, v, 1), \qquad u = (c - c_x) / f_x, \quad v = (r - c_y) / f_y,

with x to the right, y down and z away from the camera. On a plane
:math:`n \cdot P = b` the inverse depth is linear in :math:`u` and :math:`v`,

.. math:: 1 / z = (n_x u + n_y v + n_z) / b,

so a least-squares fit of :math:`1 / z` in a window gives the normal :math:`n`, which
points away from the camera. Most normals are parallel or orthogonal to gravity, so they
determine its direction.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Radius of the windows in pixels, fine for the angle and coarse for gravity.
_FINE, _COARSE = 3, 10
# Largest angle in degrees from parallel or orthogonal of normals that vote, in two rounds.
_THRESHOLDS = (45.0, 15.0)
_ITERATIONS = 5
# Largest distance of points from a plane, relative to their depth, in an even window.
_EVEN = 1e-3
# The ground is in view if the lowest points are at least this far below the camera, in m.
_GROUND = 0.9


class Intrinsics(NamedTuple):
    """Focal lengths and principal point of a camera without distortion, in pixels.

    Args:
        fx: focal length along the columns.
        fy: focal length along the rows.
        cx: column of the principal point; the first pixel has 0.
        cy: row of the principal point; the first pixel has 0.
    """

    fx: float
    fy: float
    cx: float
    cy: float


def surface_normals(
    depth: Tensor, intrinsics: Intrinsics, radius: int = _FINE
) -> Tensor:
    """Fit a plane to the points around each pixel.

    Args:
        depth: depth in m, shape (H, W); NaN or 0 if unknown.
        intrinsics: intrinsics of the camera.
        radius: radius of the window, which has ``2 * radius + 1`` pixels along each side.
            Pixels without depth or outside the image are ignored.

    Returns:
        Unit normals that point away from the camera, float64, shape (3, H, W); NaN without
        depth or with too few points in the window.

    Example:
        >>> wall = torch.full((9, 9), 2.0)
        >>> surface_normals(wall, Intrinsics(10, 10, 4, 4))[:, 4, 4].abs().round()
        tensor([0., 0., 1.], dtype=torch.float64)
    """
    return _planes(depth, intrinsics, radius)[0]


def gravity_direction(normals: Tensor) -> Tensor:
    r"""Estimate the direction of gravity from the normals of a scene.

    The search starts at the y axis of the camera, whose tilt must not exceed 45 degrees.
    It selects normals nearly parallel to the direction (floors, tables) and nearly
    orthogonal to it (walls). The new direction, which fits both sets best, is the
    eigenvector of the smallest eigenvalue of

    .. math:: \sum_{orthogonal} n n^T - \sum_{parallel} n n^T .

    Args:
        normals: normals, shape (3, ...), NaN if unknown.

    Returns:
        Unit vector, float64, shape (3,). It is the y axis if no normal votes.

    Example:
        >>> floor = torch.tensor([0.0, 0.995, 0.0998]).reshape(3, 1)
        >>> gravity_direction(floor)
        tensor([0.0000, 0.9950, 0.0998], dtype=torch.float64)
    """
    n = normals.double().flatten(1)
    n = n[:, n.isfinite().all(0)]
    down = n.new_tensor([0.0, 1.0, 0.0])
    for threshold in _THRESHOLDS:
        near = math.cos(math.radians(threshold))
        far = math.sin(math.radians(threshold))
        for _ in range(_ITERATIONS):
            cosine = (down @ n).abs()
            parallel, orthogonal = n[:, cosine > near], n[:, cosine < far]
            if parallel.shape[1] + orthogonal.shape[1] == 0:
                break
            spread = orthogonal @ orthogonal.T - parallel @ parallel.T
            # For a single wall, the direction is ambiguous: prefer the nearest to `down`.
            # In other cases, this term does not change the fixed point.
            votes = parallel.shape[1] + orthogonal.shape[1]
            spread = spread - 1e-3 * votes * torch.outer(down, down)
            moved = torch.linalg.eigh(spread).eigenvectors[:, 0]
            down = moved * (1.0 if moved @ down >= 0 else -1.0)
    return down


def geocentric(
    depth: Tensor | np.ndarray,
    intrinsics: Intrinsics,
    camera_height: float | None = 1.3,
) -> Tensor:
    """Compute inverse depth, height above ground and angle with gravity.

    Args:
        depth: depth in m, shape (H, W). Values that are not finite and positive are
            missing.
        intrinsics: intrinsics of the camera.
        camera_height: height of the camera above ground in m, used if the ground is not
            in view: no point is 0.9 m or more below the camera. With None, the lowest
            point is always the ground.

    Returns:
        Three channels, float32, shape (3, H, W), with NaN for missing pixels. They are
        the inverse depth in 1/m; the height along gravity in m, above the 1st percentile
        of points on even surfaces; and the angle of the surface with the horizontal in degrees (0
        floor, 90 wall, 180 ceiling), NaN if unknown.

    Raises:
        ValueError: if the depth has another shape or is not in m, or a focal length is
            not positive.
    """
    z = torch.as_tensor(depth).double()
    if z.ndim != 2:
        raise ValueError(f'depth must have shape (H, W), got {tuple(z.shape)}')
    if intrinsics.fx <= 0 or intrinsics.fy <= 0:
        raise ValueError(
            f'intrinsics must have positive focal lengths, got {intrinsics}'
        )
    z = z.masked_fill(~(z.isfinite() & (z > 0)), torch.nan)
    middle = z.nanmedian().item()
    if middle > 200:
        raise ValueError(
            f'depth must be in m, got a median of {middle:.4g}; divide millimetres by '
            '1000, and mark missing pixels with 0 or NaN'
        )
    u, v = _rays(z, intrinsics)
    # Use only the flatter half of the windows: windows across edges have wrong normals,
    # and outliers may be below the ground.
    coarse, even = _planes(z, intrinsics, _COARSE)
    down = gravity_direction(coarse.masked_fill(~even, torch.nan))
    normals, even = _planes(z, intrinsics, _FINE)
    # y points down, so lower points have larger coordinates along gravity.
    above = -z * (down[0] * u + down[1] * v + down[2])
    ground = above[even] if even.any() else above[above.isfinite()]
    if len(ground):
        lowest = np.quantile(ground.cpu().numpy(), 0.01)
        if camera_height is not None and lowest > -_GROUND:
            lowest = -camera_height
        above = above - lowest
    cosine = (down.reshape(3, 1, 1) * normals).sum(0).clamp(-1, 1)
    return torch.stack([1 / z, above, cosine.acos().rad2deg()]).float()


def encode_hha(
    depth: Tensor | np.ndarray,
    intrinsics: Intrinsics,
    camera_height: float | None = 1.3,
) -> Tensor:
    """Encode metric depth in three bytes per pixel, at the published scale.

    ====== ======================================= ===============================
    band   meaning                                 byte, rounded, within 0 and 255
    ====== ======================================= ===============================
    0      horizontal disparity                    310 / depth in m
    1      height above ground                     100 * height in m
    2      angle with gravity                      angle in degrees + 38
    ====== ======================================= ===============================

    Args:
        depth: see :func:`geocentric`.
        intrinsics: intrinsics of the camera.
        camera_height: see :func:`geocentric`.

    Returns:
        The bands, uint8, shape (3, H, W). All are 0 if depth is missing, and the last one
        is 0 if the surface is unknown.

    Raises:
        ValueError: see :func:`geocentric`.

    Example:
        >>> wall = torch.full((48, 64), 3.1)
        >>> encode_hha(wall, Intrinsics(100, 100, 32, 24))[:, 24, 32]
        tensor([100, 130, 128], dtype=torch.uint8)
    """
    disparity, height, angle = geocentric(depth, intrinsics, camera_height)
    bands = torch.stack([310 * disparity, 100 * height, angle + (128 - 90)])
    return bands.round().clamp(0, 255).nan_to_num(0).byte()


def _planes(
    depth: Tensor, intrinsics: Intrinsics, radius: int
) -> tuple[Tensor, Tensor]:
    """Fit a plane around each pixel; return normals, and whether the fit is close."""
    z = depth.double()
    valid = z.isfinite() & (z > 0)
    u, v = _rays(z, intrinsics)
    w = valid.double()
    # A missing inverse depth is 0 and has no weight.
    d = torch.where(valid, 1 / z, 0.0)
    terms = [w, u * w, v * w, d, u * u * w, u * v * w, v * v * w, u * d, v * d, d * d]
    n, su, sv, sd, suu, suv, svv, sud, svd, sdd = _box_sums(torch.stack(terms), radius)
    n = n.clamp(min=1)
    # Moments about the mean of the window eliminate the intercept.
    uu, uv, vv = suu - su * su / n, suv - su * sv / n, svv - sv * sv / n
    ud, vd = sud - su * sd / n, svd - sv * sd / n
    det = uu * vv - uv * uv
    # Require points in two rows of the smallest window, and not all on one line.
    enough = valid & (n >= 6) & (det > 1e-6 * (uu + vv).square())
    det = torch.where(enough, det, 1.0)
    a, b = (vv * ud - uv * vd) / det, (uu * vd - uv * ud) / det
    c = (sd - a * su - b * sv) / n
    normals = torch.stack([a, b, c])
    normals = normals / normals.norm(dim=0).clamp(min=1e-12)
    # Residual of the inverse depths, relative to their mean.
    dd = sdd - sd * sd / n
    rest = ((dd - a * ud - b * vd).clamp(min=0) / n).sqrt() / (sd / n).clamp(min=1e-12)
    rest = rest.masked_fill(~enough, torch.nan)
    even = rest <= rest.nanmedian().clamp(min=_EVEN)
    return normals.masked_fill(~enough, torch.nan), even


def _rays(depth: Tensor, intrinsics: Intrinsics) -> tuple[Tensor, Tensor]:
    """Return the slopes of the rays to the right and down, shapes (1, W) and (H, 1)."""
    rows, columns = (
        torch.arange(n, dtype=torch.double, device=depth.device) for n in depth.shape
    )
    fx, fy, cx, cy = intrinsics
    return ((columns - cx) / fx)[None], ((rows - cy) / fy)[:, None]


def _box_sums(x: Tensor, radius: int) -> Tensor:
    """Sum over a square window around each pixel, shape (C, H, W)."""
    for dim in (1, 2):
        size = x.shape[dim]
        zero = torch.zeros_like(x.narrow(dim, 0, 1))
        sums = torch.cat([zero, x.cumsum(dim)], dim)
        place = torch.arange(size, device=x.device)
        stop = (place + radius + 1).clamp(max=size)
        start = (place - radius).clamp(min=0)
        x = sums.index_select(dim, stop) - sums.index_select(dim, start)
    return x
