import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchgeo.datasets import DatasetNotFoundError

from tests.helpers.fake_data import fake
from torchgeo_decur.datasets import SUNRGBD, NYUDepthV2
from torchgeo_decur.datasets.base import UnreadableFileError
from torchgeo_decur.datasets.rgbd.hha import Intrinsics, encode_hha
from torchgeo_decur.datasets.rgbd.hha_cache import HHACache

h5py = pytest.importorskip('h5py')
pytest.importorskip('scipy')

SUN = fake('sunrgbd')
NYU = fake('nyudepthv2')
CLASSES = {'sunrgbd': SUNRGBD, 'nyudepthv2': NYUDepthV2}


@pytest.fixture(scope='module')
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write data that no test changes; only its caches fill."""
    return {
        'sunrgbd': SUN.make(tmp_path_factory.mktemp('sunrgbd')),
        'nyudepthv2': NYU.make(tmp_path_factory.mktemp('nyudepthv2')),
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write a SUN RGB-D to damage."""
    made: Path = SUN.make(tmp_path)
    return made


def test_sunrgbd_frames_belong_together(shared: dict[str, Path]) -> None:
    raw = SUNRGBD(shared['sunrgbd'], depth='raw')
    coded = SUNRGBD(shared['sunrgbd'])
    assert [frame.scene for frame in raw.samples] == list(SUN.TRAIN)
    assert len(SUNRGBD(shared['sunrgbd'], 'test')) == len(SUN.TEST)
    for index, scene in enumerate(SUN.TRAIN):
        number = index + len(SUN.TEST)
        rgb, depth, mask = SUN.frame(number, scene)
        sample = raw[index]
        assert sorted(sample) == ['image_depth', 'image_rgb', 'mask']
        # JPEG is lossy: the frame and the place are still seen.
        photograph = torch.from_numpy(rgb).float()
        assert (sample['image_rgb'] - photograph).abs().max() < 8
        metres = torch.from_numpy(depth / 1000).clamp(max=8).float()
        assert torch.allclose(sample['image_depth'][0], metres)
        assert sample['mask'].dtype == torch.int64
        assert torch.equal(sample['mask'], torch.from_numpy(mask).long())
        expected = encode_hha(metres, Intrinsics(30, 31, 16, 12))
        assert torch.equal(coded[index]['image_hha'], expected.float())


def test_nyu_frames_belong_together(shared: dict[str, Path]) -> None:
    for split, numbers in (('train', NYU.TRAIN), ('test', NYU.TEST)):
        raw = NYUDepthV2(shared['nyudepthv2'], split, 'raw')
        coded = NYUDepthV2(shared['nyudepthv2'], split)
        assert len(raw) == len(numbers)
        for index, number in enumerate(numbers):
            rgb, depth, labels = map(torch.from_numpy, NYU.frame(number - 1))
            sample = raw[index]
            assert torch.equal(sample['image_rgb'], rgb.float())
            assert torch.equal(sample['image_depth'][0], depth)
            mapping = torch.from_numpy(np.append(0, NYU.mapping()))
            assert torch.equal(sample['mask'], mapping[labels.long()])
            expected = encode_hha(depth, NYUDepthV2.camera)
            assert torch.equal(coded[index]['image_hha'], expected.float())
        assert len({coded.name(item) for item in coded.samples}) == len(numbers)


def test_both_datasets_share_the_first_classes() -> None:
    assert len(SUNRGBD.classes) == 1 + 37
    assert len(NYUDepthV2.classes) == 1 + 40
    assert NYUDepthV2.classes[:38] == SUNRGBD.classes
    assert SUNRGBD.classes[1] == 'wall' and SUNRGBD.classes[37] == 'bag'


@pytest.mark.parametrize('name', CLASSES)
def test_resizes_without_mixing_depths_and_classes(
    shared: dict[str, Path], name: str
) -> None:
    dataset = CLASSES[name](shared[name], depth='raw', size=(12, 16))
    whole = CLASSES[name](shared[name], depth='raw')
    for index in range(len(dataset)):
        sample, before = dataset[index], whole[index]
        assert sample['image_rgb'].shape == (3, 12, 16)
        # Depth and classes are never mixed, missing pixels of 0 least of all.
        for key in ('image_depth', 'mask'):
            assert sample[key].shape[-2:] == (12, 16)
            assert sample[key].dtype == before[key].dtype
            assert set(sample[key].unique().tolist()) <= set(
                before[key].unique().tolist()
            )


@pytest.mark.parametrize('name', CLASSES)
def test_plots_and_transforms_samples(shared: dict[str, Path], name: str) -> None:
    def first_row(sample: dict[str, Any]) -> dict[str, Any]:
        return {k: x[..., :1, :] for k, x in sample.items()}

    dataset = CLASSES[name](shared[name])
    sample = dataset[0]
    figure = dataset.plot({**sample, 'prediction': sample['mask']})
    assert [ax.get_title() for ax in figure.axes] == [
        'rgb (R G B)',
        'hha (disparity height angle)',
        'mask',
        'prediction',
    ]
    moved = CLASSES[name](shared[name], transforms=first_row)[0]
    for key, x in moved.items():
        assert torch.equal(x, sample[key][..., :1, :])


def test_explains_what_to_download(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetNotFoundError, match=r'(?s)unzip SUNRGBD\.zip .*MD5 18d22e'
    ):
        SUNRGBD(tmp_path)
    NYU.make(tmp_path)
    (tmp_path / 'splits.mat').unlink()
    with pytest.raises(
        DatasetNotFoundError,
        match=r'the files splits\.mat \(from http.*/indoor_seg_sup',
    ):
        NYUDepthV2(tmp_path)


@pytest.mark.parametrize('damage', ['truncated', 'missing', 'text'])
@pytest.mark.parametrize('part', ['image', 'depth_bfx', 'intrinsics.txt'])
def test_names_an_unreadable_file(root: Path, damage: str, part: str) -> None:
    folder = root / 'SUNRGBD' / SUN.TRAIN[0]
    path = folder / part
    path = path if path.is_file() else next(path.iterdir())
    content = path.read_bytes()
    path.unlink()
    if damage != 'missing':
        path.write_bytes(content[: len(content) // 2] if damage[0] == 't' else b'no')
    if damage == 'text':
        path.write_bytes(b'nothing')
    with pytest.raises(UnreadableFileError, match=re.escape(str(path))):
        SUNRGBD(root)[0]
    dataset = SUNRGBD(root, skip_unreadable=True)
    with pytest.warns(UserWarning, match='skipped 1 of 5 samples'):
        assert dataset[0]['mask'].shape == (20, 28)


def test_names_damaged_metadata(root: Path) -> None:
    labels = root / SUNRGBD.labels
    content = labels.read_bytes()
    with h5py.File(labels, 'a') as file:
        del file['SUNRGBD2Dseg']['seglabel']
    with pytest.raises(UnreadableFileError, match=r'SUNRGBD2Dseg\.mat .* truncated'):
        SUNRGBD(root)
    labels.write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableFileError, match=r'SUNRGBD2Dseg\.mat .* truncated'):
        SUNRGBD(root)
    labels.write_bytes(content)
    (root / SUNRGBD.official).write_bytes(b'nothing')
    with pytest.raises(UnreadableFileError, match=r'allsplit\.mat must be a MATLAB 5'):
        SUNRGBD(root)


def test_refuses_labels_of_another_number_of_frames(root: Path, tmp_path: Path) -> None:
    more = SUN.make(tmp_path / 'more', SUN.TRAIN[:2])
    (root / SUNRGBD.labels).write_bytes((more / SUNRGBD.labels).read_bytes())
    with pytest.raises(UnreadableFileError, match=r'labels for 7 frames .* found 4'):
        SUNRGBD(root)


def test_names_or_skips_missing_frames(root: Path) -> None:
    gone = root / 'SUNRGBD' / SUN.TRAIN[3]
    gone.rename(root / 'elsewhere')
    with pytest.raises(
        UnreadableFileError, match=rf'5 frames .* 1 are missing, .* {SUN.TRAIN[3]}'
    ):
        SUNRGBD(root)
    assert len(SUNRGBD(root, skip_unreadable=True)) == 4


def test_refuses_files_of_other_frames(root: Path) -> None:
    first, other = (root / 'SUNRGBD' / SUN.TRAIN[i] for i in (0, 1))
    depth, wrong = (next((f / 'depth_bfx').iterdir()) for f in (first, other))
    depth.write_bytes(wrong.read_bytes())
    with pytest.raises(
        ValueError, match=r'NYU0001: expected depth of 24 x 32 .* found 20 x 28'
    ):
        SUNRGBD(root)[0]
    image = next((first / 'image').iterdir())
    image.write_bytes(depth.read_bytes())
    with pytest.raises(ValueError, match=r'expected 3 band\(s\), found 1'):
        SUNRGBD(root)[0]


def test_unknown_class_is_refused(root: Path) -> None:
    with h5py.File(root / SUNRGBD.labels, 'a') as file:
        file['#refs#/2'][3, 3] = 38
    with pytest.raises(ValueError, match=r'NYU0001: .* from 0 to 37, found 38'):
        SUNRGBD(root)[0]


def test_refuses_damaged_files_of_nyu(tmp_path: Path) -> None:
    NYU.make(tmp_path)
    io = pytest.importorskip('scipy.io')
    io.savemat(tmp_path / 'splits.mat', {'trainNdxs': [[6]], 'testNdxs': [[0]]})
    for split in ('train', 'test'):
        with pytest.raises(
            UnreadableFileError, match='expected frame numbers from 1 to 5'
        ):
            NYUDepthV2(tmp_path, split)
    io.savemat(tmp_path / 'splits.mat', {'trainNdxs': [[1]]})
    io.savemat(tmp_path / 'classMapping40.mat', {'mapClass': [[1, 2]]})
    with pytest.raises(ValueError, match='0001: expected labels up to 2'):
        NYUDepthV2(tmp_path)[0]
    path = tmp_path / NYUDepthV2.labelled
    with h5py.File(path, 'a') as file:
        del file['depths']
        file['depths'] = np.zeros((4, 32, 24), np.float32)
    with pytest.raises(UnreadableFileError, match=r"same number.*'depths': 4"):
        NYUDepthV2(tmp_path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UnreadableFileError, match=r'labeled\.mat .* truncated'):
        NYUDepthV2(tmp_path)


def test_rejects_invalid_options(shared: dict[str, Path]) -> None:
    for options, message in (
        ({'split': 'val'}, "split must be one of .* got 'val'"),
        ({'depth': 'jet'}, "depth must be one of .* got 'jet'"),
        ({'size': (0, 4)}, r'size must be .*, such as \[256, 256\], got \(0, 4\)'),
    ):
        with pytest.raises(ValueError, match=message):
            SUNRGBD(shared['sunrgbd'], **options)


def test_names_the_extra_to_install_without_h5py(
    shared: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'h5py', None)
    with pytest.raises(ImportError, match=r'pip install "torchgeo-decur\[rgbd\]"'):
        SUNRGBD(shared['sunrgbd'])


def test_needs_a_writable_cache(shared: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / 'file'
    file.write_text('in the way')
    with pytest.raises(
        ValueError, match=f'cache must be a writable folder .* got {file}'
    ):
        SUNRGBD(shared['sunrgbd'], cache=file)[0]


class TestCache:
    camera = Intrinsics(30, 30, 16, 12)
    depth = torch.full((24, 32), 3.1)

    def never(self) -> torch.Tensor:
        raise AssertionError('the cache was not used')

    def test_computes_once(self, tmp_path: Path) -> None:
        cache = HHACache(tmp_path / 'a' / 'b')
        first = cache.get('kv1/x', self.camera, lambda: self.depth)
        assert torch.equal(first, encode_hha(self.depth, self.camera).float())
        assert torch.equal(cache.get('kv1/x', self.camera, self.never), first)
        again = HHACache(tmp_path / 'a' / 'b')
        assert torch.equal(again.get('kv1/x', self.camera, self.never), first)

    def test_depends_on_the_camera(self, tmp_path: Path) -> None:
        cache = HHACache(tmp_path)
        cache.get('x', self.camera, lambda: self.depth)
        paths = {
            cache.path('x', self.camera),
            cache.path('x', self.camera._replace(fx=31)),
            cache.path('y', self.camera),
            HHACache(tmp_path, camera_height=None).path('x', self.camera),
        }
        assert len(paths) == 4

    def test_damaged_file_is_computed_anew(self, tmp_path: Path) -> None:
        cache = HHACache(tmp_path)
        first = cache.get('x', self.camera, lambda: self.depth)
        path = cache.path('x', self.camera)
        for content in (path.read_bytes()[:40], b'', path.read_bytes()[:-20]):
            path.write_bytes(content)
            assert torch.equal(cache.get('x', self.camera, lambda: self.depth), first)
            assert torch.equal(cache.get('x', self.camera, self.never), first)

    def test_interrupted_write(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = HHACache(tmp_path)

        def stop(*args: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr('os.replace', stop)
            with pytest.raises(KeyboardInterrupt):
                cache.get('x', self.camera, lambda: self.depth)
        assert list(tmp_path.iterdir()) == []

    def test_images_can_be_read_by_whom_other_files_can(self, tmp_path: Path) -> None:
        (tmp_path / 'any').touch()
        cache = HHACache(tmp_path)
        cache.get('x', self.camera, lambda: self.depth)
        mode = cache.path('x', self.camera).stat().st_mode
        assert mode == (tmp_path / 'any').stat().st_mode

    def test_workers_share_the_cache(
        self, shared: dict[str, Path], tmp_path: Path
    ) -> None:
        dataset = SUNRGBD(shared['sunrgbd'], size=(24, 32), cache=tmp_path)
        # Each frame is asked for by both workers at once.
        twice = dataset.subset([i for i in range(5) for _ in range(2)])
        loader = torch.utils.data.DataLoader(twice, batch_size=1, num_workers=2)
        images = [batch['image_hha'][0] for batch in loader]
        for index in range(5):
            assert torch.equal(images[2 * index], images[2 * index + 1])
            assert torch.equal(images[2 * index], dataset[index]['image_hha'])
        assert len([p for p in tmp_path.rglob('*') if p.is_file()]) == 5
