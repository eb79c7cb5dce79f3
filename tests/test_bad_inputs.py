"""Check that twenty mistakes of users each give one clear error within seconds."""

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from rasterio.transform import from_origin
from torch import nn
from torchgeo.datasets import DatasetNotFoundError
from torchgeo.tasks import Classification

from tests.helpers.fake_data import fake
from tests.helpers.small_fits import trainer
from torchgeo_decur.callbacks import ExportEncoders
from torchgeo_decur.datamodules import SyntheticEODataModule
from torchgeo_decur.datamodules.geonrw import GeoNRWPatchDataModule
from torchgeo_decur.datamodules.rasters import RasterPairDataModule
from torchgeo_decur.datamodules.ssl4eo_s12 import SSL4EOS12PairDataModule
from torchgeo_decur.datasets import UnreadableFileError
from torchgeo_decur.tasks import DeCUR

SSL4EO, GEONRW, RASTERS = map(fake, ('ssl4eo_s12', 'geonrw', 'rasters'))


def model(**options: Any) -> DeCUR:
    small = {'model': 'test_resnet', 'projector': [8], 'size': 32}
    return DeCUR(**{'modalities': {'s1': 2, 's2': 13}, **small, **options})


def synthetic(**options: Any) -> SyntheticEODataModule:
    small = {'length': 4, 'val_length': 2, 'batch_size': 2, 'size': 32}
    return SyntheticEODataModule(**{**small, **options})


def fit(
    task: LightningModule,
    data: LightningDataModule,
    ckpt_path: Path | None = None,
    **options: Any,
) -> None:
    run = trainer(**{'num_sanity_val_steps': 2, **options})
    run.fit(task, datamodule=data, ckpt_path=ckpt_path)


def checkpoint(task: LightningModule, folder: Path) -> Path:
    trainer = Trainer(accelerator='cpu', logger=False, enable_checkpointing=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(folder / 'other.ckpt')
    return folder / 'other.ckpt'


def file(folder: Path) -> Path:
    """Return a file instead of a folder, because root can write in any folder."""
    (folder / 'file').touch()
    return folder / 'file'


def ssl4eo(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Fit on fake SSL4EO-S12 after a change of its files."""

    def run(folder: Path) -> None:
        SSL4EO.make(folder, places=range(4), dates=(0,))
        change(folder)
        data = SSL4EOS12PairDataModule(str(folder), val_fraction=0.5, batch_size=2)
        fit(model(), data)

    return run


def backscatter(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change the values of all files of Sentinel-1."""

    def run(folder: Path) -> None:
        for path in folder.rglob('V?.tif'):
            with rasterio.open(path, 'r+') as raster:
                raster.write(change(raster.read()).astype(np.float32))

    return run


def swap(folder: Path) -> None:
    for vv in folder.rglob('VV.tif'):
        vv.rename(vv.with_name('x.tif'))
        vv.with_name('VH.tif').rename(vv)
        vv.with_name('x.tif').rename(vv.with_name('VH.tif'))


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def hole(image: Any) -> Any:
    image[:, 3, 3] = np.nan
    return image


def geonrw(change: Callable[[Path], object], **options: Any) -> Callable[[Path], None]:
    """Fit on fake GeoNRW after a change of its files."""

    def run(folder: Path) -> None:
        GEONRW.make(folder)
        change(folder)
        data = GeoNRWPatchDataModule(
            str(folder), **{'size': 32, 'batch_size': 2, 'val_fraction': 0.5, **options}
        )
        fit(model(modalities={'rgb': 3, 'dem': 1}), data)

    return run


def label(folder: Path) -> None:
    for path in folder.rglob('*_seg.tif'):
        with rasterio.open(path, 'r+') as raster:
            raster.write(np.full_like(raster.read(), 11))


def rasters(
    change: Callable[[dict[str, dict[str, Any]], Path], object] = lambda r, f: None,
    **options: Any,
) -> Callable[[Path], RasterPairDataModule]:
    """Set up joined rasters after a change of their entries."""

    def run(folder: Path) -> RasterPairDataModule:
        RASTERS.make(folder)
        entries = {
            'optical': {'paths': str(folder / 'optical'), 'bands': ['column', 'row']},
            'radar': {'paths': str(folder / 'radar'), 'bands': ['east', 'north']},
        }
        change(entries, folder)
        small = {'patch_size': 32, 'length': 8, 'batch_size': 2}
        data = RasterPairDataModule(entries, **{**small, **options})
        data.setup('fit')
        return data

    return run


def own(**how: Any) -> Callable[[dict[str, dict[str, Any]], Path], None]:
    """Replace optical by one given file."""

    def change(entries: dict[str, dict[str, Any]], folder: Path) -> None:
        corner = from_origin(RASTERS.WEST + how.get('east', 0), RASTERS.NORTH, 10, 10)
        shape = how.get('bands', 2), RASTERS.ROWS, RASTERS.COLUMNS
        values = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
        path = folder / 'own' / 'own.tif'
        RASTERS.write(path, values, corner, how.get('crs', RASTERS.UTM))
        entries['optical']['paths'] = str(path.parent)

    return change


def empty(folder: Path) -> Path:
    (folder / 'empty').mkdir()
    return folder / 'empty'


LOCAL = 'LOCAL_CS["site",UNIT["metre",1]]'

# Mistake: what a user does, the error, and what it says: expected, found, what to do.
CASES: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    'missing folder': (
        ssl4eo(lambda folder: shutil.rmtree(folder / 's1')),
        DatasetNotFoundError,
        r'root=.*Expected files such as .*s1/0000000/<product>/VV\.tif',
    ),
    'missing folder, rasters': (
        rasters(lambda r, _: r['radar'].update(paths='/no/folder')),
        ValueError,
        r"radar: path '/no/folder' does not exist \(current folder ",
    ),
    'empty folder': (
        lambda folder: fit(model(), SSL4EOS12PairDataModule(str(empty(folder)))),
        DatasetNotFoundError,
        r"root='.*empty'.*Expected files such as .*VV\.tif",
    ),
    'empty folder, rasters': (
        rasters(lambda r, folder: r['radar'].update(paths=str(empty(folder)))),
        ValueError,
        r'radar: expected rasters \(\.tif .*empty.*found none among 0 files; check',
    ),
    'truncated GeoTIFF': (
        ssl4eo(lambda folder: [*map(truncate, folder.rglob('B8.tif'))]),
        UnreadableFileError,
        r'B8\.tif is truncated or not a raster .*; restore it, or set '
        'skip_unreadable=True',
    ),
    'truncated GeoTIFF, rasters': (
        rasters(lambda _, folder: truncate(folder / 'optical' / 'b_east.tif')),
        ValueError,
        r'optical: .*found 1 that cannot be read.*b_east\.tif.*skip_unreadable: true',
    ),
    'wrong band count': (
        ssl4eo(
            lambda folder: [
                SSL4EO.write(path, 12, -8, 'float32', bands=3)
                for path in folder.rglob('VV.tif')
            ]
        ),
        ValueError,
        r'VV\.tif: expected 1 band\(s\), found 3; restore the original file',
    ),
    'wrong band count, rasters': (
        rasters(own(bands=3)),
        ValueError,
        r"optical: expected 2 bands \['column', 'row'\], found 3 in .*own\.tif; set the option bands",
    ),
    'wrong band count, of the task': (
        lambda _: fit(model(modalities={'s1': 2, 's2': 12}), synthetic()),
        ValueError,
        's2: expected 12 channels, found 13; correct the number of channels in modalities',
    ),
    'swapped polarisations': (
        ssl4eo(swap),
        ValueError,
        r's1: expected VV brighter than VH .*found mean VV -1\d\.\d+ < VH -7\.\d+, '
        'as in swapped bands',
    ),
    'linear power instead of dB': (
        ssl4eo(backscatter(lambda x: 10 ** (x / 10))),
        ValueError,
        r's1: expected backscatter in dB .*linear power; convert with 10 \* log10\(x\)',
    ),
    'NaN tile': (
        ssl4eo(backscatter(hole)),
        ValueError,
        r"s1: expected finite values, found 4 NaN .*\['VV', 'VH'\]; fill them, or set the option nodata",
    ),
    'CRS mismatch, none': (
        rasters(own(crs=None)),
        ValueError,
        r'optical: expected georeferenced rasters, but .*own\.tif has no CRS .*add both',
    ),
    'CRS mismatch, no way between them': (
        rasters(own(crs=LOCAL)),
        ValueError,
        r"radar: cannot be projected from its CRS 'WGS 84 .* 'site' of optical; reproject the",
    ),
    'no overlap between rasters': (
        rasters(own(east=1e5)),
        ValueError,
        'optical and radar must overlap, but optical covers longitude .* and radar '
        'covers longitude .*; check the paths',
    ),
    'patch larger than raster': (
        rasters(patch_size=161),
        ValueError,
        'patch_size must fit into the common footprint of 320 x 160 pixels .*got 161',
    ),
    'patch larger than raster, GeoNRW': (
        geonrw(lambda _: None, size=65),
        ValueError,
        r'size must be in \[1, 64\], because tiles have .*, got 65',
    ),
    'label out of range': (
        geonrw(label),
        ValueError,
        r'_seg\.tif: expected classes from 0 to 10, found 11; restore the original',
    ),
    'label out of range, rasters': (
        lambda folder: rasters(
            mask={'paths': str(folder / 'labels'), 'num_classes': 2}
        )(folder),
        ValueError,
        r'mask: labels must be in \[0, 2\) or nodata \(255\.0\), got .*correct the option num_clas',
    ),
    'unknown backbone': (
        lambda _: fit(model(model='resnet51'), synthetic()),
        ValueError,
        "model must be the name of a timm model, got 'resnet51'; did you mean one of "
        r"\[.*'resnet50'",
    ),
    'unknown weight name': (
        lambda _: fit(model(weights='ResNet50_Weights.SENTINEL9'), synthetic()),
        ValueError,
        "weights must be a weight enum, its name .* or a file, got 'Res",
    ),
    'checkpoint of another model, as weights': (
        lambda folder: model(
            weights=str(checkpoint(model(modalities={'s1': 2, 's2': 12}), folder))
        ),
        ValueError,
        r'other\.ckpt: expected the parameters of the encoder for s2, found another '
        'model with .*1 of another shape .*; use the same model and number of channels as',
    ),
    'checkpoint of another model, as ckpt_path': (
        lambda folder: fit(
            model(), synthetic(), checkpoint(model(projector=[16]), folder)
        ),
        ValueError,
        r'checkpoint belongs to another model; projector: expected \[8\], found \[16\]',
    ),
    'checkpoint of another model, of another task': (
        lambda folder: fit(
            model(),
            synthetic(),
            checkpoint(Classification('test_resnet', num_classes=2), folder),
        ),
        ValueError,
        'checkpoint belongs to another model; task: expected DeCUR, found None; modalities: ',
    ),
    'common_ratio outside [0, 1]': (
        lambda _: fit(model(common_ratio=87.5), synthetic()),
        ValueError,
        r'common_ratio must be in \[0, 1\], got 87\.5',
    ),
    'one modality only': (
        lambda _: fit(model(modalities={'s1': 2}), synthetic(modalities=['s1'])),
        ValueError,
        r"modalities must name at least two modalities for DeCUR, got \['s1'\]",
    ),
    'one modality only, in the data': (
        lambda _: fit(model(), synthetic(modalities=['s1'])),
        ValueError,
        r"batch must have \['image_s2'\], got only \['image_s1'\]; use the same modality names",
    ),
    'batch of one': (
        lambda _: fit(model(), synthetic(batch_size=1)),
        ValueError,
        'batch 0 must have at least 2 samples .*, got 1; set batch_size >= 2',
    ),
    'batch of one, without validation': (
        lambda _: fit(model(), synthetic(batch_size=1), limit_val_batches=0),
        ValueError,
        r'batch_size must be between 2 and the number of training samples .*\(4\), got 1',
    ),
    'projector with a layer of no width': (
        lambda _: fit(model(projector=[8, 0]), synthetic()),
        ValueError,
        r'projector must be a list of positive layer widths, got \[8, 0\]',
    ),
    'misspelt modality in a per-modality option': (
        lambda _: model(model={'s1': 'test_resnet', 'S2': 'test_resnet'}),
        ValueError,
        r"model must be .* with the modalities \['s1', 's2'\], got unknown \['S2'\], "
        r"missing \['s2'\]",
    ),
    'misspelt modality in a per-modality option, augmentations': (
        lambda _: model(augmentations={'sar': nn.Identity()}),
        ValueError,
        r"augmentations must be .*\['s1', 's2'\], got unknown \['sar'\]",
    ),
    'unwritable output folder': (
        lambda folder: fit(
            model(), synthetic(), callbacks=[ExportEncoders(file(folder) / 'encoders')]
        ),
        ValueError,
        r'output folder must be writable, got .*file/encoders \(Not a directory\); cho',
    ),
    'unwritable output folder, of the run': (
        lambda folder: fit(
            model(),
            synthetic(),
            callbacks=[ExportEncoders()],
            default_root_dir=file(folder) / 'run',
            enable_checkpointing=True,
        ),
        ValueError,
        r'got .*file/run/encoders .*choose another folder, for example with --trainer\.default',
    ),
    # Lightning makes the folder of a logger before any code of ours runs.
    'unwritable output folder, of the logger': (
        lambda folder: fit(
            model(), synthetic(), logger=CSVLogger(file(folder) / 'logs')
        ),
        NotADirectoryError,
        "Not a directory: '.*file/logs",
    ),
}


def test_there_are_twenty() -> None:
    kinds = {re.sub(r'(?<!\[0), .*', '', name) for name in CASES}
    assert len(kinds) == 20, sorted(kinds)


def clear(error: BaseException) -> None:
    """Check that a message is one paragraph."""
    assert len(str(error)) < 1000 and '\n' not in str(error).strip(), str(error)


@pytest.mark.parametrize('name', CASES)
def test_raises_one_clear_error(name: str, tmp_path: Path) -> None:
    do, kind, message = CASES[name]
    start = time.process_time()
    with pytest.raises(kind, match=message) as caught:
        do(tmp_path)
    assert caught.type is kind
    clear(caught.value)
    assert time.process_time() - start < 10


def test_nan_in_a_later_batch_stops_the_fit(tmp_path: Path) -> None:
    SSL4EO.make(tmp_path, places=range(6), dates=(0,))
    data = SSL4EOS12PairDataModule(str(tmp_path), val_fraction=0.2, batch_size=2)
    data.setup('fit')
    last = list(data.train_dataloader().sampler)[2]
    # Everywhere: a random crop may leave out a single pixel.
    empty = backscatter(lambda image: np.full_like(image, np.nan))
    empty(tmp_path / 's1' / data.train_dataset.samples[last])
    with pytest.raises(
        FloatingPointError,
        match=r"loss must be finite, got NaN .*'intra_s1'.* check the data for NaN",
    ) as caught:
        fit(model(), data, num_sanity_val_steps=0)
    clear(caught.value)


class TestUnreadableFilesAreSkipped:
    """Check the warning about skipped samples."""

    def test_ssl4eo_skips_an_unreadable_file(self, tmp_path: Path) -> None:
        SSL4EO.make(tmp_path, places=range(4), dates=(0,))
        data = SSL4EOS12PairDataModule(
            str(tmp_path), val_fraction=0.0, batch_size=2, skip_unreadable=True
        )
        truncate(next((tmp_path / 's2c' / '0000002').rglob('B8.tif')))
        with pytest.warns(
            UserWarning, match=r'skipped 1 of 4 samples .*0000002.*B8\.tif'
        ):
            fit(model(), data, limit_val_batches=0)

    def test_rasters_skip_an_unreadable_file(self, tmp_path: Path) -> None:
        run = rasters(
            lambda _, folder: truncate(folder / 'optical' / 'b_east.tif'),
            skip_unreadable=True,
            val_fraction=0.4,
        )
        with pytest.warns(
            UserWarning, match=r'optical: 1 of 2 files cannot be read .*b_east\.tif'
        ):
            data = run(tmp_path)
        assert data.train_dataset[0]['image_optical'].shape == (2, 32, 32)


def test_rasters_of_another_crs_are_reprojected_and_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {'bands': ['height'], 'kind': 'elevation', 'unit': 'm'}
    data = rasters(lambda r, f: r.update(dem={**entry, 'paths': str(f / 'dem')}))(
        tmp_path
    )
    printed = capsys.readouterr().out
    assert 'Converting RasterFolder CRS from GEOGCRS["WGS 84"' in printed
    assert 'to PROJCRS["WGS 84 / UTM zone 12N"' in printed
    assert data.train_dataset[0]['image_dem'].shape == (1, 32, 32)


class TestCommandLine:
    """Check that `torchgeo fit` shows the same error before it writes a file."""

    def test_names_a_wrong_option_of_the_model(
        self, torchgeo: Callable[..., None], decur_yaml: Callable[..., Path]
    ) -> None:
        conf = decur_yaml(model__init_args__common_ratio=1.5)
        with pytest.raises(ValueError, match='common_ratio') as caught:
            torchgeo('fit', '--config', conf)
        # jsonargparse wraps the message in lines about types.
        lines = str(caught.value).split('\n')
        assert any(
            line.endswith('common_ratio must be in [0, 1], got 1.5') for line in lines
        )
        assert len(lines) < 10 and len(str(caught.value)) < 1000
        assert list(conf.parent.iterdir()) == [conf]

    def test_names_missing_files_of_the_data(
        self, torchgeo: Callable[..., None], decur_yaml: Callable[..., Path]
    ) -> None:
        data = {
            'class_path': 'torchgeo_decur.datamodules.SSL4EOS12PairDataModule',
            'init_args': {'root': '/no/folder'},
        }
        with pytest.raises(
            DatasetNotFoundError, match='Expected files such as'
        ) as caught:
            torchgeo('fit', '--config', decur_yaml(data=data))
        clear(caught.value)

    def test_names_an_output_that_is_not_writable(
        self,
        torchgeo: Callable[..., None],
        decur_yaml: Callable[..., Path],
        tmp_path: Path,
    ) -> None:
        run = file(tmp_path) / 'run'
        conf = decur_yaml(trainer__logger=False, trainer__default_root_dir=str(run))
        with pytest.raises(
            ValueError, match=f'output folder must be writable, got {run}/encoders'
        ) as caught:
            torchgeo('fit', '--config', conf)
        clear(caught.value)
