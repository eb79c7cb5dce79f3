import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.helpers.fake_data import fake, write_bands
from torchgeo_decur.datasets import (
    Intrinsics,
    PairedFolders,
    UnreadableFileError,
    encode_hha,
)

FAKE = fake('paired_folders')
make, frame, IMAGES, MASK = FAKE.make, FAKE.frame, FAKE.IMAGES, FAKE.MASK
BOTH = ('dataset1', 'dataset3')


@pytest.fixture(scope='module')
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write data that no test changes."""
    made: Path = make(tmp_path_factory.mktemp('paired_folders'))
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write three frames to damage."""
    made: Path = make(tmp_path, {'a': ('1', '2', '3')})
    return made


def entry(name: str, **changes: Any) -> dict[str, dict[str, Any]]:
    """Return the entries, with one of them changed."""
    return {**IMAGES, name: {**IMAGES[name], **changes}}


def metres(depth: np.ndarray) -> torch.Tensor:
    """Read the depth of a file in m, with NaN for 0 and 65535."""
    x = torch.from_numpy(depth.astype(np.float32))
    return (x * 0.001).masked_fill((x == 0) | (x == 65535), math.nan)


def test_frames_belong_together(shared: Path) -> None:
    dataset = PairedFolders(shared, IMAGES, MASK, BOTH)
    assert len(dataset) == 7
    for number, sample in enumerate(dataset):
        rgb, depth, label = frame(number)
        assert sorted(sample) == ['id', 'image_depth', 'image_rgb', 'mask']
        assert torch.equal(sample['image_rgb'], torch.from_numpy(rgb).float())
        expected = metres(depth)
        assert expected.isnan().sum() == 8
        assert torch.equal(sample['image_depth'].isnan(), expected.isnan())
        assert torch.equal(sample['image_depth'].nan_to_num(), expected.nan_to_num())
        assert sample['mask'].dtype == torch.int64
        assert torch.equal(sample['mask'], torch.from_numpy(label[0]).long() // 255)
    assert len(PairedFolders(shared, IMAGES, MASK, ['dataset3'])) == 2


def test_reads_one_modality_without_mask(shared: Path) -> None:
    dataset = PairedFolders(shared, {'rgb': IMAGES['rgb']}, splits=BOTH)
    assert sorted(dataset[0]) == ['id', 'image_rgb']


def test_ids_may_be_anywhere_in_the_name(tmp_path: Path) -> None:
    for number, name in enumerate(('x/left_1', 'x/left_2', 'y/left_1')):
        rgb, depth, _ = frame(number)
        write_bands(tmp_path / 'colour' / f'{name}_rgb.jpg', rgb)
        write_bands(tmp_path / 'deep' / f'{name}_d.tif', depth)
    (tmp_path / 'colour' / 'x' / 'notes.txt').write_text('not a frame')
    images = {
        'rgb': {**IMAGES['rgb'], 'pattern': 'colour/{id}_rgb.jpg'},
        'depth': {**IMAGES['depth'], 'pattern': 'deep/{id}_d.tif'},
    }
    dataset = PairedFolders(tmp_path, images)
    assert [f.id for f in dataset.samples] == ['x/left_1', 'x/left_2', 'y/left_1']
    for number, sample in enumerate(dataset):
        rgb, depth, _ = frame(number)
        assert (sample['image_rgb'] - torch.from_numpy(rgb).float()).abs().max() < 8
        assert torch.equal(
            sample['image_depth'].nan_to_num(), metres(depth).nan_to_num()
        )


def test_computes_and_caches_hha(shared: Path, tmp_path: Path) -> None:
    camera = {'fx': 30, 'fy': 30, 'cx': 18, 'cy': 12}
    common = {k: IMAGES['depth'][k] for k in ('pattern', 'nodata', 'scale')}
    images = {**IMAGES, 'hha': {**common, 'hha': camera}}
    dataset = PairedFolders(shared, images, MASK, BOTH, cache=tmp_path)
    assert dataset.modalities['hha'].bands == ('disparity', 'height', 'angle')
    expected = encode_hha(metres(frame(1)[1])[0], Intrinsics(**camera)).float()
    for _ in range(2):
        assert torch.equal(dataset[1]['image_hha'], expected)
    assert len([p for p in tmp_path.rglob('*') if p.is_file()]) == 1
    low = {**camera, 'camera_height': 0.5}
    images['hha'] = {**common, 'hha': low}
    lower = PairedFolders(shared, images, MASK, BOTH, cache=tmp_path)[1]['image_hha']
    assert torch.equal(lower[0], expected[0]) and lower[1].sum() < expected[1].sum()


def test_depth_that_changed_after_it_was_kept(root: Path) -> None:
    common = {k: IMAGES['depth'][k] for k in ('pattern', 'nodata', 'scale')}
    camera = {'fx': 30, 'fy': 30, 'cx': 18, 'cy': 12}
    images = {'rgb': IMAGES['rgb'], 'hha': {**common, 'hha': camera}}
    dataset = PairedFolders(root, images, splits=['a'])
    assert dataset[0]['image_hha'].shape == (3, 24, 36)
    rgb, depth, _ = frame(0, (20, 30))
    write_bands(root / 'a/rgb/1.png', rgb)
    with pytest.raises(ValueError, match=r'depth/1\.png: expected 20 x 30 pixels'):
        dataset[0]
    write_bands(root / 'a/depth/1.png', depth)
    with pytest.raises(
        ValueError,
        match=r'depth/1\.png: image size differs from its cached .* delete .*hha',
    ):
        dataset[0]


def test_the_cache_is_no_frame(tmp_path: Path) -> None:
    for name in ('1', '2'):
        write_bands(tmp_path / f'{name}.png', frame(int(name))[1])
    camera = {'fx': 30, 'fy': 30, 'cx': 18, 'cy': 12}
    images = {'hha': {'pattern': '{id}.png', 'scale': 0.001, 'hha': camera}}
    first = [s['image_hha'] for s in PairedFolders(tmp_path, images)]
    again = PairedFolders(tmp_path, images)
    assert len(again) == 2
    assert torch.equal(again[1]['image_hha'], first[1])


def test_resizes_images_and_masks_to_one_size(shared: Path) -> None:
    whole = PairedFolders(shared, IMAGES, MASK, BOTH)[2]
    sample = PairedFolders(shared, IMAGES, MASK, BOTH, size=(48, 20))[2]
    assert sample['image_rgb'].shape == (3, 48, 20)
    for key in ('image_depth', 'mask'):
        assert sample[key].shape[-2:] == (48, 20)
        known = set(whole[key].nan_to_num().unique().tolist())
        assert set(sample[key].nan_to_num().unique().tolist()) <= known
    assert len(sample['image_rgb'].unique()) > len(whole['image_rgb'].unique())


def test_draws_a_sample(shared: Path) -> None:
    dataset = PairedFolders(shared, IMAGES, MASK, BOTH)
    sample = dataset[0]
    figure = dataset.plot({**sample, 'prediction': sample['mask']})
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ['rgb (R G B)', 'depth (depth, m)', 'mask', 'prediction']


def test_maps_and_checks_values_of_masks(shared: Path, root: Path) -> None:
    kept = {**MASK, 'values': {0: 0}, 'nodata': 255}
    mask = PairedFolders(shared, IMAGES, kept, BOTH)[0]['mask']
    assert mask.unique().tolist() == [0, 255]
    for changes, message in (
        ({'values': {0: 0}}, r'1\.png: expected values \[0\], found 255; correct'),
        ({'values': None, 'num_classes': 2}, r'classes from 0 to 1, found 255'),
        ({'values': {0: 0, 255: 7}, 'num_classes': 2}, 'from 0 to 1, found 255'),
    ):
        with pytest.raises(ValueError, match=message):
            PairedFolders(root, IMAGES, {**MASK, **changes}, ['a'])[0]


@pytest.mark.parametrize('missing', ['rgb', 'depth', 'label'])
def test_names_or_skips_incomplete_frames(root: Path, missing: str) -> None:
    (root / 'a' / missing / '2.png').unlink()
    with pytest.raises(
        ValueError,
        match=rf"1 of 3 frames lack a file, such as \['2'\].*a/{missing}/.*skip_incomplete",
    ):
        PairedFolders(root, IMAGES, MASK, ['a'])
    some = PairedFolders(root, IMAGES, MASK, ['a'], skip_incomplete=True)
    assert [f.id for f in some.samples] == ['1', '3']


def test_kept_frames_have_some_of_the_modalities(root: Path) -> None:
    (root / 'a/depth/1.png').unlink()
    (root / 'a/rgb/2.png').unlink()
    images = {m: IMAGES[m] for m in ('rgb', 'depth')}
    dataset = PairedFolders(root, images, MASK, ['a'], skip_incomplete='keep')
    has = {m: x.tolist() for m, x in dataset.availability.items()}
    assert has == {'rgb': [True, False, True], 'depth': [False, True, True]}
    for number, sample in enumerate(dataset):
        assert list(sample)[:3] == ['image_rgb', 'image_depth', 'mask']
        for m, there in has.items():
            assert sample[f'available_{m}'].shape == ()
            assert bool(sample[f'available_{m}']) is there[number]
            assert there[number] or not sample[f'image_{m}'].any()
        shapes = [sample[f'image_{m}'].shape for m in images]
        assert shapes == [(3, 24, 36), (1, 24, 36)]
    (batch,) = DataLoader(dataset.subset([2, 0]), batch_size=2)
    assert batch['available_depth'].tolist() == [True, False]
    assert dataset.subset([2, 0]).availability['depth'].tolist() == [True, False]
    titles = [ax.get_title() for ax in dataset.plot(dataset[0]).axes]
    assert titles == ['rgb (R G B)', 'mask']


def test_kept_frames_have_a_mask_and_an_image(root: Path) -> None:
    (root / 'a/label/1.png').unlink()
    for folder in ('rgb', 'depth'):
        (root / 'a' / folder / '2.png').unlink()
    kept = PairedFolders(root, IMAGES, MASK, ['a'], skip_incomplete='keep')
    assert [f.id for f in kept.samples] == ['3']
    assert 'available_rgb' not in kept[0]
    kept = PairedFolders(root, IMAGES, None, ['a'], skip_incomplete='keep')
    assert [f.id for f in kept.samples] == ['1', '3']
    with pytest.raises(ValueError, match="must be true, false or 'keep', got 'all'"):
        PairedFolders(root, IMAGES, MASK, ['a'], skip_incomplete='all')  # type: ignore[arg-type]


def test_fills_absent_images_in_the_size_of_the_frame(root: Path) -> None:
    rgb, *_ = frame(1, (20, 30))
    write_bands(root / 'a/rgb/2.png', rgb)
    (root / 'a/depth/2.png').unlink()
    camera = {'fx': 30, 'fy': 30, 'cx': 18, 'cy': 12}
    common = {k: IMAGES['depth'][k] for k in ('pattern', 'nodata', 'scale')}
    images = {'hha': {**common, 'hha': camera}, 'rgb': IMAGES['rgb']}
    options: dict[str, Any] = {'splits': ['a'], 'skip_incomplete': 'keep'}
    dataset = PairedFolders(root, images, **options)
    assert dataset[1]['image_hha'].shape == (3, 20, 30)
    with pytest.raises(ValueError, match=r'a/rgb/2\.png: expected image_hha of shape'):
        next(iter(DataLoader(dataset, batch_size=3)))
    sized = PairedFolders(root, images, size=(8, 8), **options)
    (batch,) = DataLoader(sized, batch_size=3)
    assert batch['image_hha'].shape == (3, 3, 8, 8)
    assert batch['image_hha'].flatten(1).any(1).tolist() == [True, False, True]


def test_explains_a_pattern_without_files(root: Path) -> None:
    with pytest.raises(ValueError, match=r"match .*'b/rgb/\{id\}\.png'.* found .*: 0"):
        PairedFolders(root, IMAGES, MASK, ['b'])
    with pytest.raises(ValueError, match='expected files in'):
        PairedFolders(root / 'nowhere', IMAGES, MASK, ['a'])


@pytest.mark.parametrize('damage', ['truncated', 'text'])
@pytest.mark.parametrize('folder', ['rgb', 'depth', 'label'])
def test_names_or_skips_an_unreadable_file(
    root: Path, damage: str, folder: str
) -> None:
    path = root / 'a' / folder / '2.png'
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage[1] == 'r' else b'nothing')
    with pytest.raises(UnreadableFileError, match=re.escape(f'{path} is truncated')):
        PairedFolders(root, IMAGES, MASK, ['a'])[1]
    dataset = PairedFolders(root, IMAGES, MASK, ['a'], skip_unreadable=True)
    with pytest.warns(UserWarning, match='skipped 1 of 3 samples'):
        assert dataset[1]['image_rgb'][0, 0, 0] == 40


def test_missing_file_is_not_called_truncated(root: Path) -> None:
    dataset = PairedFolders(root, IMAGES, MASK, ['a'])
    path = root / 'a' / 'depth' / '2.png'
    path.unlink()
    with pytest.raises(UnreadableFileError, match=re.escape(f'{path} is missing; res')):
        dataset[1]


def test_refuses_frames_of_several_sizes_in_a_batch(root: Path) -> None:
    for folder, bands in zip(
        ('rgb', 'depth', 'label'), frame(1, (20, 30)), strict=True
    ):
        write_bands(root / 'a' / folder / '2.png', bands)
    dataset = PairedFolders(root, IMAGES, MASK, ['a'])
    assert dataset[1]['mask'].shape == (20, 30)
    message = (
        r'rgb/2\.png: expected image_rgb of shape \(3, 24, 36\) as in .*rgb/1\.png of the '
        r'same batch, found shape \(3, 20, 30\); set a common size'
    )
    with pytest.raises(ValueError, match=message):
        list(DataLoader(dataset, batch_size=3))
    assert len(list(DataLoader(dataset, batch_size=1))) == 3
    sized = PairedFolders(root, IMAGES, MASK, ['a'], size=(8, 8))
    (batch,) = DataLoader(sized, batch_size=3)
    assert batch['image_rgb'].shape == (3, 3, 8, 8)
    with pytest.raises(
        ValueError, match=r'size must be .* such as \[256, 256\], got 8'
    ):
        PairedFolders(root, IMAGES, MASK, ['a'], size=8)  # type: ignore[arg-type]


def test_hidden_files_are_no_frames(root: Path) -> None:
    for folder in ('rgb', 'depth', 'label'):
        inside = root / 'a' / folder
        (inside / '._1.png').write_bytes(b'a copy of macOS')
        (inside / '.ipynb_checkpoints').mkdir()
        (inside / '.ipynb_checkpoints' / '1-checkpoint.png').write_bytes(b'a copy')
    dataset = PairedFolders(root, IMAGES, MASK, ['a'])
    assert [f.id for f in dataset.samples] == ['1', '2', '3']


@pytest.mark.parametrize('bands', [3, 4])
def test_colours_where_classes_are_expected(root: Path, bands: int) -> None:
    colours = np.zeros((bands, 24, 36), np.uint8)
    write_bands(root / 'a' / 'label' / '1.png', colours)
    found = (
        rf'label/1\.png: expected 1 band\(s\), found {bands}; write masks with a single'
    )
    with pytest.raises(ValueError, match=found):
        PairedFolders(root, IMAGES, MASK, ['a'])[0]
    write_bands(root / 'a' / 'rgb' / '1.png', np.zeros((4, 24, 36), np.uint8))
    with pytest.raises(
        ValueError, match=r'found 4; list all bands of the files in bands'
    ):
        PairedFolders(root, IMAGES, MASK, ['a'])[0]


def test_classes_are_integers(root: Path) -> None:
    values = np.full((1, *frame(0)[2].shape[1:]), 1.0, np.float32)
    values[0, 0, 0], values[0, 0, 1] = np.nan, 2
    write_bands(root / 'a' / 'label' / '1.tif', values)
    masks = {'pattern': '{split}/label/{id}.tif'}
    images = {'rgb': IMAGES['rgb']}

    def read(**more: Any) -> torch.Tensor:
        found: torch.Tensor = PairedFolders(
            root, images, masks | more, ['a'], skip_incomplete=True
        )[0]['mask']
        return found

    with pytest.raises(
        ValueError, match=r'1\.tif: expected integer classes, found nan'
    ):
        read()
    assert read(nodata=255).unique().tolist() == [1, 2, 255]
    write_bands(root / 'a' / 'label' / '1.tif', values + 0.5)
    with pytest.raises(ValueError, match=r'1\.tif: expected integer .* found 2\.5'):
        read(nodata=255)


def test_refuses_a_png_without_its_end(root: Path) -> None:
    path = root / 'a' / 'depth' / '1.png'
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(UnreadableFileError, match='PNG without end marker'):
        PairedFolders(root, IMAGES, MASK, ['a'])[0]


def test_files_that_do_not_fit(root: Path) -> None:
    write_bands(root / 'a/depth/1.png', frame(0, (24, 30))[1])
    with pytest.raises(
        ValueError, match=r'depth/1\.png: expected 24 x 36 .* found 24 x 30'
    ):
        PairedFolders(root, IMAGES, MASK, ['a'])[0]
    write_bands(root / 'a/rgb/2.png', frame(0)[2])
    with pytest.raises(ValueError, match=r'rgb/2\.png: expected 3 band\(s\), found 1'):
        PairedFolders(root, IMAGES, MASK, ['a'])[1]
    write_bands(root / 'a/label/3.png', frame(0)[0])
    with pytest.raises(
        ValueError, match=r'label/3\.png: expected 1 band\(s\), found 3'
    ):
        PairedFolders(root, IMAGES, MASK, ['a'])[2]


@pytest.mark.parametrize(
    ('images', 'mask', 'splits', 'message'),
    [
        ({}, None, BOTH, r'images must have at least one .* got \[\]'),
        ({'mask': IMAGES['rgb']}, None, BOTH, r"none named mask, got \['mask'\]"),
        (entry('rgb', path='x'), None, BOTH, r"rgb: keys must .* got \['path'\]"),
        (IMAGES, {'folder': 'x'}, BOTH, r"mask: keys must .* got \['folder'\]"),
        (entry('rgb', pattern='rgb/*.png'), None, BOTH, r'rgb: pattern .* one \{id\}'),
        (IMAGES, {}, BOTH, r'mask: pattern must .* got None'),
        (entry('rgb', bands='RGB'), None, BOTH, "rgb: bands must be .* got 'RGB'"),
        (entry('rgb', kind='photo'), None, BOTH, "rgb: kind must be .* got 'photo'"),
        (entry('rgb', mean=1.0, std=[1.0]), None, BOTH, 'rgb: mean must be a list'),
        (entry('depth', scale=0), None, BOTH, 'depth: scale must be a nonzero number'),
        (entry('depth', nodata='none'), None, BOTH, 'depth: nodata must be a number'),
        (IMAGES, {**MASK, 'values': [0, 255]}, BOTH, 'mask: values must be a dict'),
        (IMAGES, {**MASK, 'values': {'a': 1}}, BOTH, 'mask: values must be a dict'),
        (
            IMAGES,
            {**MASK, 'nodata': [1, 2]},
            BOTH,
            'mask: nodata must be a single number',
        ),
        (entry('depth', hha={'fx': 1}), None, BOTH, r"depth: hha must have \['fx'"),
        (IMAGES, MASK, (), r'none may contain it otherwise'),
        (entry('rgb', pattern='a/{id}.png'), None, BOTH, 'all patterns must contain'),
    ],
)
def test_rejects_invalid_entries(
    shared: Path, images: Any, mask: Any, splits: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PairedFolders(shared, images, mask, splits)
