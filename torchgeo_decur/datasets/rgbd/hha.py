r"""HHA: a three-channel encoding of the geometry in a depth image.

The channels are horizontal disparity, height above ground and angle with gravity (Gupta et
al., ECCV 2014, https://arxiv.org/abs/1407.5736). A pixel at column :math:`c` and row
:math:`r` with depth :math:`z` (in m, along the camera axis) is the point

.. math:: P = z\,(u, v, 1), \qquad u = (c - c_x) / f_x, \quad v = (r - c_y) / f_y,

with x to the right, y down and z away from the camera. On a plane
:math:`n \cdot P = b`, the inverse depth is linear in :math:`u` and :math:`v`,

.. math:: 1 / z = (n_x u + n_y v + n_z) / b,

so a least-squares fit of :math:`1 / z` in a window gives the normal :math:`n`, which
points away from the camera. Most normals are parallel or orthogonal to gravity, so
they determine its direction.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Window radius in pixels: fine for the angle, coarse for gravity.
_FINE, _COARSE = 3, 10
# Maximum deviation in degrees of selected normals from parallel or orthogonal, in two
# rounds.
_THRESHOLDS = (45.0, 15.0)
_ITERATIONS = 5
# Maximum fitting error of windows that are always considered planar, relative to depth.
_EVEN = 1e-3
# Minimum distance of the lowest points below the camera if the ground is in view, in m.
_GROUND = 0.9


class Intrinsics(NamedTuple):
    """Intrinsics of a camera without distortion, in pixels.

    Args:
        fx: focal length in the direction of x (columns).
        fy: focal length in the direction of y (rows).
        cx: column of the principal point, starting at 0.
        cy: row of the principal point, starting at 0.
    """

    fx: float
    fy: float
    cx: float
    cy: float


def surface_normals(
    depth: Tensor, intrinsics: Intrinsics, radius: int = _FINE
) -> Tensor:
    """Compute surface normals by fitting a plane to the points around each pixel.

    Args:
        depth: depth in m, shape (H, W), NaN or 0 where unknown.
        intrinsics: camera intrinsics.
        radius: radius of the window, whose side has ``2 * radius + 1`` pixels. Pixels
            without depth or outside the image are ignored.

    Returns:
        Unit normals that point away from the camera, float64, shape (3, H, W). They are
        NaN where depth is unknown or the window has too few points.

    Example:
        >>> wall = torch.full((9, 9), 2.0)
        >>> surface_normals(wall, Intrinsics(10, 10, 4, 4))[:, 4, 4].abs().round()
        tensor([0., 0., 1.], dtype=torch.float64)
    """
    return _planes(depth, intrinsics, radius)[0]


def gravity_direction(normals: Tensor) -> Tensor:
    r"""Estimate the direction of gravity from the normals of a scene.

    The initial estimate is the y axis of the camera, whose tilt must not exceed 45 degrees.
    Each iteration selects normals that are nearly parallel to the current direction
    (floors, tables) or nearly orthogonal to it (walls). The direction that fits both sets
    best is the eigenvector of the smallest eigenvalue of

    .. math:: \sum_{orthogonal} n n^T - \sum_{parallel} n n^T .

    Args:
        normals: normals, shape (3, ...), NaN where unknown.

    Returns:
        Unit vector, float64, shape (3,). It is the y axis if no normals are selected.

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
            # A single wall leaves the direction ambiguous, so prefer the one closest to
            # `down`. Otherwise, this term does not change the fixed point.
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
        intrinsics: camera intrinsics.
        camera_height: height of the camera above ground in m. It is used if the ground is
            not in view, that is, if all points are less than 0.9 m below the camera. If
            None, the lowest point is always considered the ground.

    Returns:
        Three channels, float32, shape (3, H, W), NaN for missing pixels.

        - inverse depth in 1/m
        - height along gravity in m, above the 1st percentile of points on planar surfaces
        - angle between the surface and the horizontal in degrees (0 for floors, 90 for
          walls, 180 for ceilings), NaN where unknown

    Raises:
        ValueError: if the depth does not have shape (H, W) or is not in m, or a focal
            length is not positive.
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
            f'depth must be in m, got a median of {middle:.4g}; divide millimeters by '
            '1000, and set missing pixels to 0 or NaN'
        )
    u, v = _rays(z, intrinsics)
    # Use only the more planar half of the windows: windows that span an edge have wrong
    # normals, and outliers may lie below the ground.
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
    """Encode metric depth as HHA with three bytes per pixel at the published scale.

    ====== ======================================= ===============================
    band   meaning                                 byte, rounded, within 0 and 255
    ====== ======================================= ===============================
    0      horizontal disparity                    310 / depth in m
    1      height above ground                     100 * height in m
    2      angle with gravity                      angle in degrees + 38
    ====== ======================================= ===============================

    Args:
        depth: depth in m, shape (H, W), as in :func:`geocentric`.
        intrinsics: camera intrinsics.
        camera_height: height of the camera above ground in m, as in :func:`geocentric`.

    Returns:
        The bands, uint8, shape (3, H, W). All bands are 0 where depth is missing. The last
        band is 0 where the angle is unknown.

    Raises:
        ValueError: if the depth or intrinsics are invalid, as in :func:`geocentric`.

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
    """Fit a plane around each pixel and return normals and a mask of planar windows."""
    z = depth.double()
    valid = z.isfinite() & (z > 0)
    u, v = _rays(z, intrinsics)
    w = valid.double()
    # Missing inverse depths are 0 and have no weight.
    d = torch.where(valid, 1 / z, 0.0)
    terms = [w, u * w, v * w, d, u * u * w, u * v * w, v * v * w, u * d, v * d, d * d]
    n, su, sv, sd, suu, suv, svv, sud, svd, sdd = _box_sums(torch.stack(terms), radius)
    n = n.clamp(min=1)
    # Center the moments on the window mean to eliminate the intercept.
    uu, uv, vv = suu - su * su / n, suv - su * sv / n, svv - sv * sv / n
    ud, vd = sud - su * sd / n, svd - sv * sd / n
    det = uu * vv - uv * uv
    # Require at least six points that are not collinear.
    enough = valid & (n >= 6) & (det > 1e-6 * (uu + vv).square())
    det = torch.where(enough, det, 1.0)
    a, b = (vv * ud - uv * vd) / det, (uu * vd - uv * ud) / det
    c = (sd - a * su - b * sv) / n
    normals = torch.stack([a, b, c])
    normals = normals / normals.norm(dim=0).clamp(min=1e-12)
    # Compute the residual of the inverse depths relative to their mean.
    dd = sdd - sd * sd / n
    rest = ((dd - a * ud - b * vd).clamp(min=0) / n).sqrt() / (sd / n).clamp(min=1e-12)
    rest = rest.masked_fill(~enough, torch.nan)
    even = rest <= rest.nanmedian().clamp(min=_EVEN)
    return normals.masked_fill(~enough, torch.nan), even


def _rays(depth: Tensor, intrinsics: Intrinsics) -> tuple[Tensor, Tensor]:
    """Compute the slopes of the pixel rays in x and y, shapes (1, W) and (H, 1)."""
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
