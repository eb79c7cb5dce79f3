import pytest
import torch

from torchgeo_decur import transforms
from torchgeo_decur.transforms import PairedCrop


def test_one_draw_for_all() -> None:
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
    with pytest.raises(ValueError, match=r'one grid, got images of .*16'):
        PairedCrop()({'a': torch.rand(1, 1, 8, 8), 'b': torch.rand(1, 1, 16, 16)})


def test_the_old_name_works() -> None:
    with pytest.warns(
        FutureWarning, match='SharedCrop is deprecated .* use PairedCrop'
    ):
        assert transforms.SharedCrop is PairedCrop
    with pytest.raises(AttributeError, match='has no attribute'):
        getattr(transforms, 'OtherCrop')  # noqa: B009
