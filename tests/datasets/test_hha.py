"""Compare HHA with a room of known planes, pixel by pixel."""

import math
import time
from functools import cache

import numpy as np
import pytest
import torch

from torchgeo_decur.datasets.rgbd.hha import (
    Intrinsics,
    encode_hha,
    geocentric,
    gravity_direction,
    surface_normals,
)

# A camera 1.5 m above the floor.
HEIGHT = 1.5
CAMERA = Intrinsics(130.0, 125.0, 79.0, 61.0)
SHAPE = (120, 160)
# Planes in axes that are right, down and ahead of the camera, as (normal away from the
# inside, distance): floor, ceiling, walls.
PLANES = [
    ((0, 1, 0), 1.5),
    ((0, -1, 0), 1.2),
    ((0, 0, 1), 4.0),
    ((1, 0, 0), 1.8),
    ((-1, 0, 0), 2.2),
]
# A box on the floor: its limits along each axis. It is 0.6 m high.
BOX = ((-0.5, 0.7), (0.9, 1.5), (2.4, 3.0))


def turn(pitch: float, roll: float) -> np.ndarray:
    """Return the rotation from camera to room, for a camera that looks down by the pitch."""
    a, b = math.radians(pitch), math.radians(roll)
    tilt = [[1, 0, 0], [0, math.cos(a), math.sin(a)], [0, -math.sin(a), math.cos(a)]]
    lean = [[math.cos(b), -math.sin(b), 0], [math.sin(b), math.cos(b), 0], [0, 0, 1]]
    return np.array(tilt) @ np.array(lean)


def cast(ray: np.ndarray) -> tuple[float, float, int]:
    """Follow one ray of the room: its length, the angle with gravity, the surface."""
    hits = [
        (distance / (np.array(normal) @ ray), normal[1], number)
        for number, (normal, distance) in enumerate(PLANES)
        if np.array(normal) @ ray > 1e-9
    ]
    for axis, limits in enumerate(BOX):
        for side, limit in enumerate(limits):
            if abs(ray[axis]) < 1e-9 or limit / ray[axis] <= 0:
                continue
            point = ray * limit / ray[axis]
            # The camera sees only the faces that are turned to it.
            if ray[axis] * (side - 0.5) > 0:
                continue
            rest = [i for i in range(3) if i != axis]
            if all(BOX[i][0] <= point[i] <= BOX[i][1] for i in rest):
                down = 1.0 if axis == 1 else 0.0
                hits.append((limit / ray[axis], down, len(PLANES) + axis))
    length, down, surface = min(hits)
    return length, math.degrees(math.acos(down)), surface


@cache
def room(pitch: float, roll: float) -> dict[str, np.ndarray]:
    """Compute depth, height, angle and surface of each pixel."""
    names = ('depth', 'height', 'angle', 'surface')
    out = {name: np.zeros(SHAPE) for name in names}
    matrix = turn(pitch, roll)
    for row in range(SHAPE[0]):
        for column in range(SHAPE[1]):
            ray = np.array(
                [(column - CAMERA.cx) / CAMERA.fx, (row - CAMERA.cy) / CAMERA.fy, 1.0]
            )
            turned = matrix @ ray
            length, angle, surface = cast(turned)
            values = (length, HEIGHT - length * turned[1], angle, surface)
            for name, value in zip(names, values, strict=True):
                out[name][row, column] = value
    return out


def inside(surface: np.ndarray, margin: int = 4) -> np.ndarray:
    """Return the pixels whose window has a single surface."""
    found = np.ones(surface.shape, dtype=bool)
    for row in range(-margin, margin + 1):
        for column in range(-margin, margin + 1):
            found &= surface == np.roll(surface, (row, column), (0, 1))
    found[:margin] = found[-margin:] = False
    found[:, :margin] = found[:, -margin:] = False
    return found


@pytest.mark.parametrize(('pitch', 'roll'), [(0, 0), (15, 0), (25, -8), (-10, 12)])
def test_finds_disparity_height_and_angle_of_a_room(pitch: float, roll: float) -> None:
    truth = room(pitch, roll)
    disparity, height, angle = geocentric(truth['depth'], CAMERA).numpy()
    flat = inside(truth['surface'])
    assert len(np.unique(truth['surface'][flat])) >= 4
    np.testing.assert_allclose(disparity, 1 / truth['depth'], rtol=1e-6)
    # Height does not come from windows: edges count as well. Where the camera looks up,
    # the floor is hardly in view, and the zero is a low part of the walls.
    below = np.median(truth['height'] - height)
    assert np.abs(height - (truth['height'] - below)).max() < 0.01
    assert abs(below) < (0.6 if pitch < 0 else 0.01)
    assert np.abs(angle - truth['angle'])[flat].max() < 1
    for surface, expected in ((0, 0), (1, 180), (2, 90)):
        seen = flat & (truth['surface'] == surface)
        assert not seen.any() or abs(np.median(angle[seen]) - expected) < 0.5


def test_bytes_are_in_the_published_scale() -> None:
    truth = room(15, 0)
    bands = encode_hha(torch.from_numpy(truth['depth']), CAMERA)
    assert bands.dtype == torch.uint8 and bands.shape == (3, *SHAPE)
    flat = inside(truth['surface'])
    disparity, height, angle = bands.numpy().astype(float)
    expected = np.clip(31000 / (100 * truth['depth']), 0, 255)
    assert np.abs(disparity - expected).max() <= 0.5 + 1e-3
    assert np.abs(height - np.clip(100 * truth['height'], 0, 255)).max() <= 1.5
    assert np.abs(angle - (truth['angle'] + 38))[flat].max() <= 1.5


@pytest.mark.parametrize('missing', [0.0, math.nan, math.inf, -1.0])
def test_invalid_pixels_do_not_count(missing: float) -> None:
    truth = room(15, 0)
    whole = geocentric(truth['depth'], CAMERA)
    depth = truth['depth'].copy()
    hole = np.zeros(SHAPE, dtype=bool)
    hole[20:40, 30:60] = hole[::9, ::7] = True
    depth[hole] = missing
    before = depth.copy()
    found = geocentric(depth, CAMERA)
    np.testing.assert_array_equal(depth, before)
    assert found[:, hole].isnan().all()
    assert found[:, ~hole].isfinite().all()
    assert torch.allclose(found[0, ~hole], whole[0, ~hole])
    assert (found[1] - whole[1]).abs()[~hole].max() < 0.01
    flat = inside(truth['surface'])
    assert (found[2] - whole[2]).abs()[flat & ~hole].max() < 1
    assert not encode_hha(depth, CAMERA)[:, hole].any()


def test_estimates_heights_without_ground_in_view() -> None:
    u = (torch.arange(160) - CAMERA.cx) / CAMERA.fx
    wall = (2 / (1 + 0.1 * u)).expand(SHAPE)
    height = geocentric(wall, CAMERA)[1]
    # The lowest point is 0.9 m below the camera's height of 1.5 m, or the ground itself.
    assert height[61].mean().item() == pytest.approx(0.94, abs=0.1)
    near = wall / 2
    assert geocentric(near, CAMERA)[1, 61].mean().item() == pytest.approx(1.3, abs=0.01)
    given = geocentric(near, CAMERA, camera_height=2.0)[1, 61]
    assert given.mean().item() == pytest.approx(2.0, abs=0.01)
    lowest = geocentric(near, CAMERA, camera_height=None)[1]
    assert lowest.amin().item() == pytest.approx(0, abs=0.04)


def test_one_wall_leaves_the_camera_level() -> None:
    down = gravity_direction(surface_normals(torch.full(SHAPE, 2.0), CAMERA))
    assert torch.allclose(down, torch.tensor([0.0, 1.0, 0.0]).double(), atol=1e-6)


def test_leaves_angles_empty_with_too_few_points() -> None:
    depth = torch.zeros(SHAPE)
    assert not encode_hha(depth, CAMERA).any()
    depth[10, 10] = 2.0
    found = geocentric(depth, CAMERA)
    # One point has a height (that of the camera is assumed), but no surface.
    assert found[:2, 10, 10].isfinite().all() and found[2].isnan().all()
    assert encode_hha(depth, CAMERA)[:, 10, 10].tolist()[0] == 155
    depth[10, 5:30] = 2.0
    assert geocentric(depth, CAMERA)[2].isnan().all()


@pytest.mark.parametrize(
    ('depth', 'camera', 'message'),
    [
        (torch.ones(1, 4, 4), CAMERA, r'shape \(H, W\), got \(1, 4, 4\)'),
        (torch.full((8, 8), 1500.0), CAMERA, r'in m, got a median of 1500; divide'),
        (torch.ones(4, 4), CAMERA._replace(fx=0), 'positive focal lengths, got'),
    ],
)
def test_rejects_invalid_arguments(
    depth: torch.Tensor, camera: Intrinsics, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encode_hha(depth, camera)


def test_a_frame_takes_no_loop_over_pixels() -> None:
    depth = 2 + torch.rand(480, 640)
    start = time.perf_counter()
    encode_hha(depth, Intrinsics(519, 519, 320, 240))
    # Under a second on an idle core; a loop over pixels takes minutes.
    assert time.perf_counter() - start < 10
