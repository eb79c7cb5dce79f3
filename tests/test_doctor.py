"""Check that `doctor` finds faults that were put into data, and none in clean data."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml
from rasterio.transform import from_origin

from torchgeo_decur.cli import main
from torchgeo_decur.cli.doctor import Diagnosis, Finding, Level, examine
from torchgeo_decur.cli.doctor.edges import edge_map
from torchgeo_decur.cli.doctor.file_grids import Grid, read_grid
from torchgeo_decur.cli.doctor.findings import rank
from torchgeo_decur.cli.doctor.grids import check_grids
from torchgeo_decur.cli.doctor.labels import check_labels
from torchgeo_decur.cli.doctor.observations import Observation, Target
from torchgeo_decur.cli.doctor.overlaps import check_places
from torchgeo_decur.cli.doctor.registration import measure_shift
from torchgeo_decur.cli.doctor.rendering import render_html, render_text
from torchgeo_decur.cli.doctor.values import check_values
from torchgeo_decur.datasets import SyntheticEO
from torchgeo_decur.modalities import MODALITIES
from torchgeo_decur.modalities.validation import sample_values

SIZE, NUMBER = 48, 16
S1, S2 = MODALITIES['sentinel1_grd'], MODALITIES['sentinel2_l1c']
IMAGES = {
    name: {
        'pattern': f'{name}/{{id}}.tif',
        **{k: getattr(record, k) for k in ('kind', 'unit')},
        **{k: list(getattr(record, k)) for k in ('bands', 'mean', 'std')},
    }
    for name, record in (('s1', S1), ('s2', S2))
}
MODEL = {
    'class_path': 'torchgeo_decur.tasks.DeCUR',
    'init_args': {
        'modalities': {'s1': 2, 's2': 13},
        'model': 'test_resnet',
        'projector': [16],
        'size': 32,
        'optimizer': 'adamw',
    },
}
type Arrays = dict[str, np.ndarray]
type Spoil = Callable[[int, Arrays], Mapping[str, Any] | None]


@pytest.fixture(scope='module')
def scenes() -> list[Arrays]:
    """Return the images and masks of scenes."""
    dataset = SyntheticEO(NUMBER, SIZE)
    keys = {'s1': 'image_s1', 's2': 'image_s2', 'mask': 'mask'}
    return [
        {name: sample[key].numpy() for name, key in keys.items()}
        for sample in (dataset[i] for i in range(NUMBER))
    ]


@pytest.fixture(scope='module')
def clean(tmp_path_factory: pytest.TempPathFactory, scenes: list[Arrays]) -> Path:
    """Return a config of clean folders."""
    config = write(tmp_path_factory.mktemp('clean'), scenes)
    content = {**yaml.safe_load(config.read_text()), 'model': MODEL}
    config.write_text(yaml.safe_dump(content))
    return config


def write(
    folder: Path, scenes: list[Arrays], spoil: Spoil | None = None, **options: Any
) -> Path:
    """Write scenes as paired files, with a fault, and return a config."""
    for index, scene in enumerate(scenes):
        arrays = {k: x.copy() for k, x in scene.items()}
        more = (spoil(index, arrays) if spoil else None) or {}
        for name, x in arrays.items():
            path = folder / name / f'{index:02}.tif'
            path.parent.mkdir(exist_ok=True)
            bands = x if x.ndim == 3 else x[None].astype(np.uint8)
            x0 = 300_000 + 1000 * index
            profile = {
                'driver': 'GTiff',
                'count': len(bands),
                'height': bands.shape[1],
                'width': bands.shape[2],
                'dtype': bands.dtype,
                'crs': 'EPSG:32633',
                'transform': from_origin(x0, 5_400_000, 10, 10),
            }
            with rasterio.open(path, 'w', **{**profile, **more.get(name, {})}) as file:
                file.write(bands)
    data = {
        'root': str(folder),
        'images': IMAGES,
        'mask': {'pattern': 'mask/{id}.tif'},
        'val_fraction': 0.25,
        'test_fraction': 0.25,
        'batch_size': 4,
        **options,
    }
    return configure(folder, 'PairedFoldersDataModule', data)


def configure(folder: Path, name: str, data: dict[str, Any], model: Any = None) -> Path:
    path = folder / 'config.yaml'
    content = {
        'trainer': {'max_epochs': 2},
        **({'model': model} if model else {}),
        'data': {'class_path': f'torchgeo_decur.datamodules.{name}', 'init_args': data},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def diagnose(config: Path) -> Diagnosis:
    return examine(config, workers=0)


def found(diagnosis: Diagnosis) -> dict[tuple[str, str], Finding]:
    return {(f.check, f.where): f for f in diagnosis.findings}


def test_clean_folders_give_nothing(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / 'page.html'
    main(['doctor', str(clean), '--out', str(page), '--workers', '0'])
    out = capsys.readouterr().out
    assert 'No findings' in out and out.rstrip().endswith(str(page))
    assert 'Samples: train 8 (8 read), val 4 (4 read), test 4 (4 read)' in out
    assert 'Pixel width: s1 10 m, s2 10 m' in out
    assert 'Cost, steps: 4 in 2 epochs' in out
    assert 's1, s2  0.0 px (0 m)' in out
    assert [*tmp_path.iterdir()] == [page]
    text = page.read_text('utf-8')
    assert 'passed all checks' in text and '.csv' not in text and '<td>B8A</td>' in text


def test_examines_the_data_of_overlays_and_options(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load(clean.read_text())
    root = content['data']['init_args'].pop('root')
    config, overlay = tmp_path / 'config.yaml', tmp_path / 'larger.yaml'
    config.write_text(yaml.safe_dump(content))
    overlay.write_text('{trainer: {max_epochs: 3}, data: {init_args: {batch_size: 2}}}')
    options = [f'--overlays=[{overlay}]', f'--data.root={root}', '--workers=0']
    main(['doctor', str(config), *options])
    out = capsys.readouterr().out
    assert 'No findings' in out and f'Config: {config}, {overlay}' in ' '.join(
        out.split()
    )
    assert 'Cost, steps: 12 in 3 epochs' in out


@pytest.mark.parametrize('paired', [1.0, 0.6])
def test_built_in_scenes_give_nothing(tmp_path: Path, paired: float) -> None:
    data = {'length': 24, 'val_length': 12, 'size': SIZE, 'paired': paired}
    config = configure(tmp_path, 'SyntheticEODataModule', {**data, 'batch_size': 8})
    diagnosis = diagnose(config)
    assert not diagnosis.findings and diagnosis.worst is None
    counted = 'Samples with each modality' in diagnosis.facts
    assert counted == (paired < 1)


@pytest.mark.parametrize(
    ('layout', 'size', 'name'),
    [
        ('ssl4eo_s12', 48, 'SSL4EOS12PairDataModule'),
        ('bigearthnet_v2', 120, 'BigEarthNetMMDataModule'),
        ('geonrw', 48, 'GeoNRWPatchDataModule'),
    ],
)
def test_scenes_in_real_layouts_give_nothing(
    tmp_path: Path, layout: str, size: int, name: str
) -> None:
    root = tmp_path / 'data'
    modalities = ('rgb', 'dem') if layout == 'geonrw' else ('s1', 's2')
    scenes = SyntheticEO(6 if layout == 'geonrw' else 12, size, modalities=modalities)
    scenes.write(root, layout, progress=False)
    data: dict[str, Any] = {'root': str(root), 'batch_size': 2}
    if layout == 'geonrw':
        data['size'] = 24
    if layout == 'ssl4eo_s12':
        data['val_fraction'] = 0.3
    config = configure(tmp_path, name, data)
    # Worker processes give the same result.
    diagnosis = examine(config, workers=2 if layout == 'ssl4eo_s12' else 0)
    assert not diagnosis.findings
    assert ('test' in diagnosis.facts['Samples']) == (layout != 'ssl4eo_s12')
    assert ('Pixel width' in diagnosis.facts) == (layout != 'geonrw')


class TestShift:
    def test_finds_a_shift_of_three_pixels(
        self, tmp_path: Path, scenes: list[Arrays]
    ) -> None:
        """Shift the optical images by 3 pixels down, with the georeference of before."""

        def shift(index: int, arrays: Arrays) -> None:
            arrays['s2'] = np.roll(arrays['s2'], 3, 1)

        diagnosis = diagnose(write(tmp_path, scenes, shift))
        ((check, where),) = found(diagnosis)
        assert (check, where) == ('shift', 's1, s2')
        finding = diagnosis.findings[0]
        assert 's2 is shifted 3.0 px down' in finding.found
        assert '3.0 px (30 m) in total, with high confidence' in finding.found
        assert finding.level is Level.WARNING
        (row,) = diagnosis.tables['Shift between modalities']
        assert (row['down'], row['right']) == (3.0, 0.0)

    def test_finds_the_sign_of_a_shift_and_none_by_chance(
        self, scenes: list[Arrays]
    ) -> None:
        first = np.stack([edge_map(s['s1']) for s in scenes])
        moved = [np.roll(s['s2'], (-2, 4), (1, 2)).astype(np.float32) for s in scenes]
        second = np.stack([edge_map(x) for x in moved])
        shift = measure_shift(first, second)
        assert (round(shift.rows), round(shift.columns)) == (-2, 4)
        assert shift.confidence == 'high'
        # Images of other places share no edges.
        other = measure_shift(first, np.roll(second, 1, 0))
        assert other.confidence == 'cannot tell'
        # A common pattern of all images is no sign of their place.
        pattern = np.random.default_rng(0).normal(size=first.shape[1:])
        noise = np.random.default_rng(1).normal(size=(2, *first.shape))
        a, b = (5 * pattern + noise).astype(np.float32)
        assert measure_shift(a, b).confidence == 'cannot tell'

    def test_nodata_hides_no_edges(self, scenes: list[Arrays]) -> None:
        image = scenes[0]['s1'].copy()
        image[:, :10] = np.nan
        out = edge_map(image)
        assert np.isfinite(out).all() and out[:10].std() < 0.1 * out[20:].std()
        assert not edge_map(np.full((1, 16, 16), np.nan, np.float32)).any()


def test_finds_faults_of_files_pairs_and_labels(
    tmp_path: Path, scenes: list[Arrays], capsys: pytest.CaptureFixture[str]
) -> None:
    """Put independent faults of files, pairs and labels into one data set."""

    def spoil(index: int, arrays: Arrays) -> Mapping[str, Any] | None:
        if index == 1:
            for name in ('s1', 's2'):
                arrays[name] = scenes[0][name].copy()
        if index == 3:
            arrays['mask'][:4] = 77
        if index == 5:
            return {'s2': {'transform': from_origin(0, 5_400_000, 10, 10)}}
        if index == 6:
            return {'s2': {'transform': from_origin(306_030, 5_400_000, 10, 10)}}
        if index == 7:
            return {'s1': {'crs': 'EPSG:32632'}}
        if index == 8:
            return {'s1': {'transform': from_origin(308_000, 5_400_000, 20, 20)}}
        if index == 9:
            arrays |= {k: x[..., :32, :32] for k, x in arrays.items()}
        return None

    options = {'skip_incomplete': True, 'skip_unreadable': True, 'val_fraction': 0.0}
    config = write(tmp_path, scenes, spoil, **options, test_fraction=0.0)
    (tmp_path / 's1' / '02.tif').write_bytes(b'no raster')
    (tmp_path / 's2' / '04.tif').unlink()
    content = yaml.safe_load(config.read_text())
    content['model'] = {
        'class_path': 'torchgeo_decur.tasks.LateFusionSegmentation',
        'init_args': {'num_classes': 8},
    }
    config.write_text(yaml.safe_dump(content))
    diagnosis = diagnose(config)
    by_check = found(diagnosis)
    assert 'is truncated or not a raster' in by_check['files', 'train 02'].found
    assert by_check['pairing', 'data'].found.endswith('a file is missing: 04')
    assert by_check['labels', 'mask'].found == 'values 77, such as in train 03'
    texts = {f.found for f in diagnosis.findings if f.check == 'place'}
    assert any(t.endswith('do not overlap: train 05') for t in texts)
    assert any('by up to' in t and 'train 06' in t for t in texts)
    assert 'EPSG:32632 and EPSG:32633' in by_check['projection', 's1, s2'].found
    assert '20 (1 file)' in by_check['resolution', 's1'].found
    assert 'size is train 09' in by_check['size', 's1'].found
    assert 'train 00, train 01' in by_check['duplicates', 's1, s2: train'].found
    assert diagnosis.worst is Level.ERROR
    assert 'Cost' in diagnosis.facts and 'not estimated' in diagnosis.facts['Cost']
    levels = [f.level for f in diagnosis.findings]
    assert levels == sorted(levels, reverse=True)
    page = render_html(diagnosis)
    assert 'Error, files (train 02)' in page and page.count('<section') > 8
    text = render_text(diagnosis)
    # A path stays on one line, whatever its length.
    lines = text.partition('\nFindings')[2].splitlines()
    assert all(len(x) <= 80 for x in lines if ' ' in x.strip())


def test_finds_samples_and_places_in_two_splits(
    tmp_path: Path, scenes: list[Arrays]
) -> None:
    """Copy a sample and its place into another split."""
    for split, some in (('a', scenes[:10]), ('b', scenes[9:])):
        (tmp_path / split).mkdir()
        write(tmp_path / split, some)
    images = {
        m: {**entry, 'pattern': f'{{split}}/{entry["pattern"]}'}
        for m, entry in IMAGES.items()
    }
    mask = {'pattern': '{split}/mask/{id}.tif'}
    data = {'root': str(tmp_path), 'images': images, 'mask': mask, 'batch_size': 16}
    splits = {'train': ['a'], 'val': ['b'], 'test': ['b']}
    config = configure(tmp_path, 'PairedFoldersDataModule', {**data, **splits})
    by_check = found(diagnose(config))
    assert {check for check, _ in by_check} == {'overlap', 'shared places', 'batch'}
    leak = by_check['overlap', 's1, s2: train, val']
    assert leak.level is Level.ERROR and 'train a/09, val b/00' in leak.found
    assert by_check['shared places', 'train, val'].found.startswith('7 samples of val')
    splits = {'train': ['a', 'b'], 'val': ['b']}
    config = configure(tmp_path, 'PairedFoldersDataModule', {**data, **splits})
    shared = found(diagnose(config))['shared samples', 'train, val']
    assert shared.found.startswith('7 samples in both splits: b/00')


def test_setup_that_fails_is_a_finding(
    tmp_path: Path, scenes: list[Arrays], capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, scenes[:3], val_fraction=0.5)
    (tmp_path / 's2' / '02.tif').unlink()
    with pytest.raises(SystemExit) as stopped:
        main(['doctor', str(config)])
    assert stopped.value.code == 4
    out = capsys.readouterr().out
    assert 'Error, setup (train)' in out and 'Fix: add the files' in out


UNITS: list[tuple[str, Callable[[np.ndarray], np.ndarray], str, Level, str]] = [
    ('s1', lambda x: x * 100, 'unit', Level.ERROR, 'set `scale: 0.01`'),
    ('s1', lambda x: 10 ** (x / 10), 'unit', Level.ERROR, 'linear power'),
    ('s1', lambda x: x[::-1].copy(), 'order', Level.ERROR, 'swapped'),
    ('s2', lambda x: x / 10_000, 'unit', Level.ERROR, 'set `scale: 10000`'),
    ('s2', lambda x: x + 1000, 'offset', Level.ERROR, 'set `offset: -1000`'),
    ('s2', lambda x: x[[*range(12), 11]], 'copies', Level.WARNING, 'B11 and B12'),
]


@pytest.mark.parametrize(('name', 'change', 'check', 'level', 'text'), UNITS)
def test_finds_wrong_units_and_bands(
    scenes: list[Arrays], name: str, change: Any, check: str, level: Level, text: str
) -> None:
    finding = first_finding(name, [change(s[name].astype(np.float32)) for s in scenes])
    assert (finding.check, finding.where, finding.level) == (check, name, level)
    assert text in f'{finding.found} {finding.cure}'


def observe(name: str, images: list[np.ndarray], **options: Any) -> list[Observation]:
    record, seen = {'s1': S1, 's2': S2}[name], []
    for i, image in enumerate(images):
        values = sample_values(
            name, {name: torch.from_numpy(image)[None]}, record, 4096
        )
        assert values is not None
        seen.append(Observation('train', i, str(i), values={name: values}, **options))
    return seen


def first_finding(name: str, images: list[np.ndarray]) -> Finding:
    record = {'s1': S1, 's2': S2}[name]
    return rank(check_values(observe(name, images), {name: record}))[0]


def test_finds_missing_pixels_and_constant_bands(scenes: list[Arrays]) -> None:
    border = [s['s1'].copy() for s in scenes]
    fill = [s['s1'].copy() for s in scenes]
    flat = [s['s2'].copy() for s in scenes]
    for a, b, c in zip(border, fill, flat, strict=True):
        a[:, :8], b[:, :8], c[4] = 0, -9999, 7
    assert 'exactly 0 in all bands' in first_finding('s1', border).found
    assert first_finding('s1', fill).cure == 'set `nodata: -9999`'
    constant = first_finding('s2', flat)
    assert constant.check == 'constant' and constant.level is Level.WARNING
    assert "['B5'] are constant in all samples of train" in constant.found


def test_finds_an_offset_of_some_dates(scenes: list[Arrays]) -> None:
    images = [s['s2'] + 1000.0 * (i % 2) for i, s in enumerate(scenes)]
    seen = observe('s2', [x.astype(np.float32) for x in images])
    for o in seen:
        year = 2023 if o.index % 2 else 2020
        seconds = np.datetime64(f'{year}-06-01', 's').astype(np.int64)
        o.dates['s2'] = np.array([seconds])
    (finding,) = check_values(seen, {'s2': S2})
    assert (finding.check, finding.level) == ('offset', Level.ERROR)
    assert 'offset of 1000 in images from 2022-01-25, but not' in finding.found


def test_finds_saturated_photographs(scenes: list[Arrays]) -> None:
    record = replace(MODALITIES['geonrw_rgb'])
    image = np.random.default_rng(0).integers(0, 200, (3, 16, 16)).astype(np.float32)
    image[1, :6] = 255
    values = sample_values('rgb', {'rgb': torch.from_numpy(image)[None]}, record)
    assert values is not None
    seen = [Observation('train', 0, '0', values={'rgb': values})]
    (finding,) = check_values(seen, {'rgb': record})
    assert finding.found == '38% of the pixels in a band are exactly 255'


def test_values_that_are_not_finite_and_copied_modalities(
    tmp_path: Path, scenes: list[Arrays]
) -> None:
    def spoil(index: int, arrays: Arrays) -> None:
        arrays['s1'] = arrays['s2'][:2].copy()
        arrays['s2'] = arrays['s1'].copy()
        if index == 1:
            arrays['s1'][0, 0] = np.nan

    entry = {'bands': ['a', 'b'], 'kind': 'multispectral', 'unit': 'native'}
    images = {m: {**entry, 'pattern': f'{m}/{{id}}.tif'} for m in ('s1', 's2')}
    for e in images.values():
        e |= {'mean': [0.0, 0.0], 'std': [1e5, 1e5]}
    config = write(tmp_path, scenes[:4], spoil, images=images, test_fraction=0.0)
    by_check = found(diagnose(config))
    copies = by_check['copies', 's1, s2']
    assert copies.level is Level.ERROR and 'in 3 samples' in copies.found
    nan = next(f for (check, _), f in by_check.items() if check == 'values')
    assert 'NaN or infinite' in nan.found and 'set the option nodata' in nan.cure


def test_finds_dates_far_apart(tmp_path: Path) -> None:
    root = tmp_path / 'data'
    SyntheticEO(6, 32).write(root, 'ssl4eo_s12', progress=False)
    for folder in (root / 's2c').glob('*/*'):
        folder.rename(folder.with_name(folder.name.replace('2020', '2022')))
    data = {'root': str(root), 'val_fraction': 0.4, 'batch_size': 2}
    config = configure(tmp_path, 'SSL4EOS12PairDataModule', data)
    finding = found(diagnose(config))['dates', 's1, s2']
    assert 'up to 731 days' in finding.found and finding.level is Level.WARNING


class TestLabels:
    def seen(self, values: list[float], split: str = 'train') -> list[Observation]:
        return [
            Observation(split, i, str(i), targets={'label': Target((v,), (1,))})
            for i, v in enumerate(values)
        ]

    def test_finds_labels_out_of_range(self) -> None:
        seen = self.seen([0, 1, 2, 255])
        assert check_labels(seen, {}) == []
        (finding,) = check_labels(seen, {'num_classes': 2, 'ignore_index': 255})
        assert finding.found == 'values 2, such as in train 2'
        (finding,) = check_labels(self.seen([0, 1, -7]), {})
        assert finding.found == 'values -7, such as in train 2'

    def test_finds_classes_without_training_samples(self) -> None:
        (finding,) = check_labels(self.seen([3] * 4), {})
        assert finding.found == 'only class 3 in 4 training samples'
        seen = self.seen([0, 1] * 8) + self.seen([2, 2, 1] * 3, 'val')
        (finding,) = check_labels(seen, {})
        assert finding.found.startswith('classes 2 occur in val, but not in 16')

    def test_finds_targets_of_another_number_of_labels(self) -> None:
        target = Target((0, 3), (1, 1), 5)
        seen = [Observation('train', 0, '0', targets={'label': target})]
        assert check_labels(seen, {'num_labels': 5}) == []
        (finding,) = check_labels(seen, {'num_labels': 4})
        assert finding.expected == 'targets with 4 labels, as set in the task'


def test_finds_faults_of_raster_folders(tmp_path: Path, scenes: list[Arrays]) -> None:
    """Check files of rasters: one without a partner, and one of another resolution."""
    rng = np.random.default_rng(0)

    def raster(name: str, x: float, size: int, pixel: float) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        where = {
            'crs': 'EPSG:32633',
            'transform': from_origin(x, 5_400_000, pixel, pixel),
        }
        shape = {'count': 1, 'height': size, 'width': size, 'dtype': 'float32'}
        with rasterio.open(path, 'w', 'GTiff', **shape, **where) as file:
            file.write(rng.normal(size=(1, size, size)).astype(np.float32))

    raster('a/0.tif', 300_000, 96, 10)
    raster('b/0.tif', 300_000, 48, 20)
    raster('b/1.tif', 900_000, 96, 10)
    entry = {'bands': ['x'], 'mean': [0.0], 'std': [1.0]}
    rasters = {m: {**entry, 'paths': str(tmp_path / m)} for m in ('a', 'b')}
    data: dict[str, Any] = {
        'rasters': rasters,
        'val_fraction': 0.4,
        'patch_size': 8,
        'length': 8,
        'batch_size': 4,
    }
    diagnosis = diagnose(configure(tmp_path, 'RasterPairDataModule', data))
    by_check = found(diagnosis)
    assert by_check.keys() == {('pairing', 'b'), ('resolution', 'b')}
    assert by_check['pairing', 'b'].found.startswith('1 of 2 files lie outside')
    (row,) = diagnosis.tables['Shift between modalities']
    assert row['shift'].startswith('cannot tell')


def test_reads_the_grids_of_places(clean: Path) -> None:
    grid = read_grid(clean.parent / 's1' / '00.tif')
    assert grid == Grid(
        'EPSG:32633',
        (300_000, 5_399_520, 300_480, 5_400_000),
        10,
        'metre',
        10,
        (48, 48),
    )
    assert read_grid(clean) is None
    shape = {'s1': (2, 48, 48)}
    near = [
        Observation(s, 0, '0', grids={'s1': grid}, shapes=shape)
        for s in ('train', 'val')
    ]
    assert check_grids(near) == []
    # Equal splits are the same split.
    assert check_places(near) == []
    moved = replace(grid, bounds=tuple(x + 100 for x in grid.bounds))
    other = Observation('train', 1, '1', grids={'s1': moved}, shapes=shape)
    (finding,) = check_places([other, *near])
    assert finding.found.startswith('1 sample of val in the area of samples of train')


def test_explains_wrong_options_and_data(clean: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match='max_samples must be positive, got 0'):
        main(['doctor', str(clean), '--max_samples', '0'])
    other = tmp_path / 'config.yaml'
    other.write_text(
        'data: {class_path: torchgeo.datamodules.EuroSATDataModule, init_args: {}}\n'
    )
    with pytest.raises(SystemExit, match='expected a MultimodalDataModule'):
        main(['doctor', str(other)])
