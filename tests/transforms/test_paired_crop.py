from typing import Any

import pytest
import torch
from torch.nn.functional import interpolate

from torchgeo_decur import transforms
from torchgeo_decur.transforms import PairedCrop


def test_all_modalities_share_one_draw() -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 1, 32, 32)
    images, mask = PairedCrop()({'a': x, 'b': x.expand(-1, 3, -1, -1)}, None)
    assert mask is None
    assert all(images['b'][:, i].equal(images['a'][:, 0]) for i in range(3))
    assert not images['a'].equal(x)
    # Each sample has its own draw.
    again, _ = PairedCrop()({'a': x[:1].expand(4, -1, -1, -1)})
    assert not again['a'][0].equal(again['a'][1])


def test_whole_image_without_flips_is_the_identity() -> None:
    crop = PairedCrop(None, (1.0, 1.0), (1.0, 1.0), hflip=0, vflip=0)
    x, mask = torch.rand(2, 3, 24, 24), torch.randint(5, (2, 24, 24))
    images, same = crop({'a': x}, mask)
    torch.testing.assert_close(images['a'], x, atol=1e-5, rtol=0)
    assert same is not None and same.equal(mask)


@pytest.mark.parametrize('shape', [(2, 40, 30), (2, 1, 40, 30)])
def test_masks_keep_their_classes(shape: tuple[int, ...]) -> None:
    mask = torch.randint(2, shape) * 255
    before = mask.clone()
    images, moved = PairedCrop(16, (0.3, 0.5))({'a': torch.rand(2, 2, 40, 30)}, mask)
    assert moved is not None and images['a'].shape == (2, 2, 16, 16)
    assert moved.shape == (*shape[:-2], 16, 16) and moved.dtype == mask.dtype
    assert set(moved.unique().tolist()) == {0, 255} and mask.equal(before)


def test_flips_move_the_mask() -> None:
    crop = PairedCrop(None, (1.0, 1.0), (1.0, 1.0), hflip=1, vflip=1)
    x = torch.randint(9, (2, 1, 8, 8))
    images, mask = crop({'a': x.float()}, x)
    torch.testing.assert_close(images['a'], x.flip(2, 3).float(), atol=1e-4, rtol=0)
    assert mask is not None and mask.equal(x.flip(2, 3))


def test_rejects_invalid_arguments() -> None:
    with pytest.raises(ValueError, match=r'crop_scale must be .* got \(1, 0\.5\)'):
        PairedCrop(8, (1, 0.5))
    with pytest.raises(ValueError, match=r"size must be .* unknown \['b'\]"):
        PairedCrop({'b': 8})({'a': torch.rand(1, 1, 8, 8)})


@pytest.mark.parametrize('first', ['aerial', 's2'])
@pytest.mark.parametrize('size', [None, 30, {'aerial': 45, 's2': 12}])
def test_pixels_of_several_sizes_cut_the_same_ground(first: str, size: Any) -> None:
    def ramp(rows: int, columns: int) -> torch.Tensor:
        """The place of each pixel centre, as a share of the ground."""
        y, x = (
            (torch.arange(n) + 0.5).expand(columns + rows - n, n) / n
            for n in (rows, columns)
        )
        return torch.stack([x, y.T]).expand(8, 2, rows, columns)

    torch.manual_seed(0)
    sizes = {'aerial': (60, 84), 's2': (15, 21)}
    images = {m: ramp(*sizes[m]) for m in sorted(sizes, key=lambda m: m != first)}
    # Classes are quarters of the ground, on a third grid.
    place = ramp(30, 42)
    mask = (place[:, 0] > 0.5).long() + 2 * (place[:, 1] > 0.5)
    moved, classes = PairedCrop(size, (0.3, 0.6))(images, mask)
    chosen = size if isinstance(size, dict) else dict.fromkeys(sizes, size)
    for m, x in moved.items():
        assert x.shape[-2:] == ((chosen[m],) * 2 if chosen[m] else sizes[m])
    fine, coarse = (moved[m] for m in ('aerial', 's2'))
    expected = interpolate(fine, coarse.shape[-2:], mode='area')
    # Beyond the last pixel centre of an image its border is repeated.
    inside = ((coarse > 0.04) & (coarse < 0.96)).all(1, keepdim=True).expand_as(coarse)
    assert inside.float().mean() > 0.8
    torch.testing.assert_close(coarse[inside], expected[inside], atol=4e-3, rtol=0)
    assert classes is not None
    where = interpolate(fine, classes.shape[-2:], mode='bilinear', antialias=True)
    again = (where[:, 0] > 0.5).long() + 2 * (where[:, 1] > 0.5)
    assert (again == classes).float().mean() > 0.95


def test_the_old_name_works() -> None:
    with pytest.warns(
        FutureWarning, match='SharedCrop is deprecated .* use PairedCrop'
    ):
        assert transforms.SharedCrop is PairedCrop
    with pytest.raises(AttributeError, match='has no attribute'):
        getattr(transforms, 'OtherCrop')  # noqa: B009
