"""Check data of one ground with pixels of several sizes, from files to predictions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from numpy.typing import NDArray
from rasterio.transform import from_origin
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.helpers.fake_data import write_bands
from tests.helpers.small_fits import trainer
from torchgeo_decur.cli.embed import embed_rasters
from torchgeo_decur.datamodules import (
    MultimodalDataModule,
    PackedDataModule,
    PairedFoldersDataModule,
    RasterPairDataModule,
)
from torchgeo_decur.datasets import PairedFolders
from torchgeo_decur.datasets.rasters.windows import GridWindows
from torchgeo_decur.packed import pack_datamodule
from torchgeo_decur.tasks import DeCUR, LateFusionSegmentation

MODALITIES = {'aerial': 3, 's2': 2}
# Metres: an aerial photograph and Sentinel-2.
RES = {'aerial': 0.5, 's2': 10.0}
# Rows and columns of a place of 50 m x 70 m.
SIZES = {'aerial': (100, 140), 's2': (5, 7)}
WEST, NORTH = 500000.0, 5700000.0


def ground(height: float, width: float, res: float, west: float = 0) -> NDArray[Any]:
    """Metres east and south of the centres of pixels, shape (2, H, W)."""
    rows, columns = np.mgrid[: round(height / res), : round(width / res)]
    return np.stack([(columns + 0.5) * res + west, (rows + 0.5) * res])


def bands(modality: str, place: NDArray[Any]) -> NDArray[Any]:
    """Image whose first bands are the place in metres, times 10."""
    values = np.concatenate([place, place[:1] % 7])[: MODALITIES[modality]]
    return (10 * values).astype(np.uint16)


def labels(place: NDArray[Any]) -> NDArray[Any]:
    """Four classes, by quarters of 40 m."""
    east, south = place
    return ((east % 40 > 20) + 2 * (south % 40 > 20)).astype(np.uint8)[None]


def entries(
    first: str, scale: Sequence[float], **files: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    found = {
        m: {
            'bands': ['a', 'b', 'c'][:c],
            'mean': [*scale, 35.0][:c],
            'std': [*scale, 35.0][:c],
            **files[m],
        }
        for m, c in MODALITIES.items()
    }
    return {first: found[first], **found}


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('folders')
    for number in range(9):
        for m, res in RES.items():
            place = ground(50, 70, res, west=13.0 * number)
            write_bands(root / m / f'{number}.tif', bands(m, place))
            write_bands(root / f'mask_{m}' / f'{number}.png', labels(place))
    return root


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One place of 300 m x 900 m in each folder."""
    root = tmp_path_factory.mktemp('scene')
    for m, res in RES.items():
        place = ground(300, 900, res)
        where = {'transform': from_origin(WEST, NORTH, res, res), 'crs': 'EPSG:25832'}
        write_bands(root / m / 'scene.tif', bands(m, place), **where)
        write_bands(root / f'mask_{m}' / 'labels.tif', labels(place), **where)
    return root


def of_folders(
    root: Path, first: str = 'aerial', mask: str = 's2', **options: Any
) -> PairedFoldersDataModule:
    images = entries(
        first,
        (900.0, 300.0),
        aerial={'pattern': 'aerial/{id}.tif'},
        s2={'pattern': 's2/{id}.tif', 'size': [5, 7]},
    )
    given = {'pattern': f'mask_{mask}/{{id}}.png', 'num_classes': 4}
    return PairedFoldersDataModule(
        str(root), images, given, **{'batch_size': 3, **options}
    )


def of_rasters(
    root: Path, first: str = 'aerial', mask: str = 's2', **options: Any
) -> RasterPairDataModule:
    files = {m: {'paths': str(root / m), 'res': r} for m, r in RES.items()}
    rasters = entries(first, (4000.0, 1500.0), **files)
    given = {'paths': str(root / f'mask_{mask}'), 'num_classes': 4, 'res': RES[mask]}
    size = {'aerial': 100, 's2': 5}[first]
    options = {'batch_size': 2, 'length': 6, 'patch_size': size, **options}
    return RasterPairDataModule(rasters, given, **options)


Make = Callable[..., MultimodalDataModule]
KINDS = pytest.mark.parametrize(
    ('kind', 'make'), [('folders', of_folders), ('scene', of_rasters)]
)
ORDERS = pytest.mark.parametrize(
    ('first', 'mask'), [('aerial', 's2'), ('s2', 'aerial')]
)


def same_ground(sample: dict[str, Tensor]) -> None:
    """Check that the means of fine pixels are the coarse ones, and the mask of its grid."""
    fine, coarse = sample['image_aerial'], sample['image_s2']
    means = nn.functional.adaptive_avg_pool2d(fine[:2], coarse.shape[-2:])
    # Values are metres times 10; a coarse pixel has 10 m.
    assert (means - coarse).abs().max() < 6
    expected = {x.shape[-2:]: x for x in (fine, coarse)}[sample['mask'].shape]
    place = expected[:2].numpy() / 10
    assert (labels(place)[0] == sample['mask'].numpy()).mean() > 0.97


@KINDS
@ORDERS
def test_samples_show_one_ground(
    kind: str, make: Make, first: str, mask: str, request: pytest.FixtureRequest
) -> None:
    data = make(request.getfixturevalue(kind), first, mask)
    for stage in ('fit', 'predict'):
        data.setup(stage)
    assert next(iter(data.modalities)) == first
    sample = data.train_dataset[1]
    height, width = (5, 7) if kind == 'folders' else (5, 5)
    assert sample['image_s2'].shape == (2, height, width)
    assert sample['image_aerial'].shape == (3, 20 * height, 20 * width)
    assert sample['mask'].shape == sample[f'image_{mask}'].shape[-2:]
    same_ground(sample)
    same_ground(data.val_dataset[0])
    assert 'mask' not in data.predict_dataset[0]
    figure = data.plot(sample)
    assert len(figure.axes) == 3


class Stop(Exception):
    """End a fit."""


class StopAt(Callback):
    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 3:
            raise Stop


def decur() -> DeCUR:
    return DeCUR(
        MODALITIES,
        'test_resnet',
        projector=[16, 16],
        size={'aerial': 64, 's2': 16},
        optimizer='adamw',
        lr=1e-3,
    )


def segmentation(**options: Any) -> LateFusionSegmentation:
    return LateFusionSegmentation(
        MODALITIES,
        'fcn',
        'test_resnet',
        **{'num_classes': 4, 'test_modality_subsets': True, **options},
    )


@pytest.mark.parametrize(
    ('kind', 'make', 'build'),
    [
        ('folders', of_folders, segmentation),
        ('folders', of_folders, decur),
        ('scene', of_rasters, decur),
    ],
)
def test_a_stopped_fit_resumes_exactly(
    kind: str,
    make: Make,
    build: Callable[[], LightningModule],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    root = request.getfixturevalue(kind)

    def fit(name: str, *more: Callback, **options: Any) -> dict[str, Tensor]:
        seed_everything(1, verbose=False)
        model = build()
        keep = ModelCheckpoint(tmp_path / name, every_n_train_steps=1, save_last=True)
        run = trainer(
            enable_checkpointing=True,
            max_epochs=2,
            limit_val_batches=1,
            callbacks=[keep, *more],
        )
        run.fit(model, make(root), **options)
        return model.state_dict()

    expected = fit('whole')
    with pytest.raises(Stop):
        fit('stopped', StopAt())
    found = fit('resumed', ckpt_path=tmp_path / 'stopped' / 'last.ckpt')
    assert not [k for k, v in expected.items() if not v.equal(found[k])]


@pytest.mark.parametrize(
    ('kind', 'make', 'first', 'mask'),
    [('folders', of_folders, 'aerial', 's2'), ('scene', of_rasters, 's2', 'aerial')],
)
def test_maps_lie_on_the_chosen_grid(
    kind: str, make: Make, first: str, mask: str, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(0)
    data = make(request.getfixturevalue(kind), first, mask)
    few = {f'limit_{name}_batches': 1 for name in ('val', 'test', 'predict')}
    run = trainer(**few)
    task = segmentation(grid=mask, crop_scale=[0.6, 1.0], modality_dropout=0.2)
    run.fit(task, data)
    run.validate(task, data, verbose=False)
    (found,) = run.test(task, data, verbose=False)
    names = ('', '_aerial', '_s2')
    assert all(f'test_AverageJaccardIndex{name}' in found for name in names)
    missing = segmentation(grid=mask, missing_modalities=[mask])
    missing.load_state_dict(task.state_dict(), strict=False)
    (alone,) = run.test(missing, data, verbose=False)
    other = next(m for m in MODALITIES if m != mask)
    expected = found[f'test_AverageJaccardIndex_{other}']
    assert alone['test_AverageJaccardIndex'] == pytest.approx(expected)
    batches = run.predict(task, data)
    assert batches is not None
    height, width = (5, 7) if kind == 'folders' else (5, 5)
    factor = 20 if mask == 'aerial' else 1
    for batch in batches:
        shape = batch['probabilities'].shape
        assert shape[1:] == (4, factor * height, factor * width)
        if kind == 'scene':
            res = RES[mask]
            assert (batch['bounds'][:, [2, 5]] == res).all()
            west, north = batch['bounds'][:, 0], batch['bounds'][:, 4]
            for i, t in enumerate(batch['transform']):
                assert t.tolist() == [res, 0, west[i], 0, -res, north[i], 0, 0, 1]


def test_prediction_without_masks_needs_a_grid(folders: Path) -> None:
    with pytest.raises(
        ValueError, match=r'same height and width, got .* or choose a grid'
    ):
        trainer().predict(segmentation(), of_folders(folders))
    with pytest.raises(ValueError, match=r"grid must be one of .* got 'dem'"):
        segmentation(grid='dem')


@pytest.mark.filterwarnings('ignore:the 6 random windows of the first epoch')
def test_embeds_and_packs_several_pixel_sizes(scene: Path, tmp_path: Path) -> None:
    data, task = of_rasters(scene), decur().eval()
    data.setup('predict')
    file = embed_rasters(
        task, data, tmp_path / 'found.parquet', date='2020-06-30', progress=False
    )
    table = gpd.read_parquet(file)
    assert len(table) == len(data.predict_dataset)
    pytest.importorskip('litdata')
    pack_datamodule(of_rasters(scene), tmp_path / 'shards', workers=0, progress=False)
    packed = PackedDataModule(str(tmp_path / 'shards'), batch_size=2)
    packed.setup('fit')
    sample = packed.train_dataset[0]
    assert sample['image_aerial'].shape == (3, 100, 100)
    same_ground(sample)


class TestFolders:
    def test_absent_images_have_their_usual_size(self, tmp_path: Path) -> None:
        for m, (height, width) in SIZES.items():
            for number in range(2):
                if (m, number) != ('aerial', 0):
                    image = np.ones((MODALITIES[m], height, width), np.uint16)
                    write_bands(tmp_path / m / f'{number}.tif', image)
        data = of_folders(tmp_path, skip_incomplete='keep', val_fraction=0)
        data.mask = None
        data.setup('fit')
        (batch,) = DataLoader(data.train_dataset, batch_size=2)
        assert batch['image_aerial'].shape == (2, 3, 100, 140)
        assert batch['available_aerial'].tolist() == [False, True]

    def test_resizes_to_the_size_of_an_entry(self, folders: Path) -> None:
        images = of_folders(folders).entries
        images = {**images, 's2': {**images['s2'], 'size': [10, 14]}}
        found = PairedFolders(folders, images, size=(50, 70))[0]
        assert found['image_aerial'].shape == (3, 50, 70)
        assert found['image_s2'].shape == (2, 10, 14)

    @pytest.mark.parametrize(
        ('entry', 'mask', 'message'),
        [
            (
                {'size': None},
                None,
                r's2/0\.tif: expected 100 x 140 .* or set the option size',
            ),
            ({'size': [7]}, None, r's2: size must be a positive height and width'),
            ({'pattern': 'wide/{id}.tif'}, None, r'wide/0\.tif: .* the same area'),
            ({}, 'other/{id}.png', r'other/0\.png: expected 5 x 7 or 100 x 140 pixels'),
        ],
    )
    def test_refuses_another_ground_or_grid(
        self,
        folders: Path,
        tmp_path: Path,
        entry: dict[str, Any],
        mask: str | None,
        message: str,
    ) -> None:
        write_bands(tmp_path / 'wide/0.tif', np.ones((2, 5, 12), np.uint16))
        write_bands(tmp_path / 'other/0.png', np.ones((1, 10, 14), np.uint8))
        for m in MODALITIES:
            (tmp_path / m).symlink_to(folders / m)
        images = of_folders(folders).entries
        images = {**images, 's2': {**images['s2'], **entry}}
        with pytest.raises(ValueError, match=message):
            data = PairedFolders(
                tmp_path,
                images,
                None if mask is None else {'pattern': mask},
                skip_incomplete=True,
            )
            data[0]


class TestRasters:
    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            ({'res': 3}, r's2: res must divide .* 50 .* patch_size'),
            ({'res': 0}, r's2: res must be a positive pixel size'),
        ],
    )
    def test_refuses_windows_of_no_whole_number_of_pixels(
        self, scene: Path, change: dict[str, Any], message: str
    ) -> None:
        rasters = of_rasters(scene).entries
        rasters = {m: dict(rasters[m]) for m in MODALITIES}
        rasters['s2'] |= change
        with pytest.raises(ValueError, match=message):
            RasterPairDataModule(rasters, patch_size=100, length=2).setup('fit')

    def test_without_res_all_have_the_first(self, scene: Path) -> None:
        files = {m: {'paths': str(scene / m)} for m in RES}
        rasters = entries('s2', (4000.0, 1500.0), **files)
        data = RasterPairDataModule(rasters, patch_size=7, length=2)
        data.setup('fit')
        assert data.train_dataset[0]['image_aerial'].shape == (3, 7, 7)

    def test_splits_share_no_ground(self, scene: Path) -> None:
        data = of_rasters(scene, 'aerial')
        data.setup('fit')
        train, val = (data.areas[name] for name in ('train', 'val'))
        # Three pixels of 10 m between the areas, but for one of the first entry.
        assert train.distance(val) >= 3 * 10 - 0.5

    @pytest.mark.parametrize('first', ['aerial', 's2'])
    def test_leaves_out_windows_with_missing_pixels_of_either_grid(
        self, first: str, tmp_path: Path
    ) -> None:
        for m, res in RES.items():
            image = bands(m, ground(280, 560, res)).astype(np.float32)
            # Missing in the west of one, in the south-east of the other.
            hole = {'aerial': np.s_[:, :, : round(70 / res)]}.get(
                m, np.s_[:, round(210 / res) :, round(490 / res) :]
            )
            image[hole] = np.nan
            where = {'transform': from_origin(WEST, NORTH, res, res), 'crs': 32632}
            write_bands(tmp_path / m / 'scene.tif', image, nodata=np.nan, **where)
        files = {m: {'paths': str(tmp_path / m), 'res': r} for m, r in RES.items()}
        rasters = entries(first, (2500.0, 1500.0), **files)
        size = {'aerial': 140, 's2': 7}[first]
        data = RasterPairDataModule(rasters, patch_size=size, length=8, max_nodata=0.1)
        data.setup('fit')
        windows = GridWindows(data.rasters, data.rasters.footprint)
        # 4 x 8 windows, without the first column and the last one.
        assert (len(windows), windows.skipped) == (27, 5)
        assert all(x['image_aerial'].isnan().float().mean() <= 0.1 for x in windows)

    @pytest.mark.parametrize('first', ['aerial', 's2'])
    def test_absent_windows_of_a_union_have_their_own_size(
        self, first: str, tmp_path: Path
    ) -> None:
        for m, (res, width) in {'aerial': (0.5, 300), 's2': (10, 600)}.items():
            where = {'transform': from_origin(WEST, NORTH, res, res), 'crs': 32632}
            image = bands(m, ground(100, width, res))
            write_bands(tmp_path / m / 'scene.tif', image, **where)
        files = {m: {'paths': str(tmp_path / m), 'res': r} for m, r in RES.items()}
        rasters = entries(first, (2500.0, 1500.0), **files)
        size = {'aerial': 100, 's2': 5}[first]
        data = RasterPairDataModule(
            rasters, patch_size=size, length=2, footprint='union'
        )
        data.setup('predict')
        data.setup('fit')
        windows = list(data.predict_dataset)
        assert {x['image_aerial'].shape for x in windows} == {(3, 100, 100)}
        absent = [x for x in windows if not x['available_aerial']]
        assert 0 < len(absent) < len(windows)
        assert not any(x['image_aerial'].any() for x in absent)
