"""Check SyntheticEO: its labels, the view of each sensor, and its files."""

import multiprocessing
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import rasterio
import torch
from scipy.stats import chi2
from torchgeo.datasets import SSL4EOS12, BigEarthNetV2, GeoNRW, NonGeoDataset

from torchgeo_decur.datasets import SyntheticEO
from torchgeo_decur.datasets.synthetic.layouts import _GEONRW, _surface
from torchgeo_decur.modalities import Modality, check
from torchgeo_decur.transforms import ScaleToUnit

ALL = ('s1', 's2', 'dem', 'rgb')
KNOWN = {
    's1': 'sentinel1_grd',
    's2': 'sentinel2_l1c',
    'dem': 'geonrw_dem',
    'rgb': 'geonrw_rgb',
}
LABELS = ('label_common', 'label_s1', 'label_s2', 'label_synergy')


@pytest.fixture(scope='module')
def scenes() -> dict[str, torch.Tensor]:
    dataset = SyntheticEO(length=96, size=48, modalities=ALL)
    samples = [dataset[i] for i in range(len(dataset))]
    return {k: torch.stack([s[k] for s in samples]) for k in samples[0]}


@pytest.fixture(scope='module')
def drawn() -> dict[str, np.ndarray]:
    dataset = SyntheticEO(length=7200)
    rows = [dataset.draw_labels(i) for i in range(len(dataset))]
    return {k: np.array([r[k] for r in rows]) for k in LABELS}


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def make(index: int) -> dict[str, np.ndarray]:
    sample = SyntheticEO(length=8, size=32, seed=5, modalities=ALL)[index]
    return {k: v.numpy() for k, v in sample.items()}


class TestSample:
    def test_is_a_dataset_of_torchgeo(self) -> None:
        dataset = SyntheticEO(length=3, size=16)
        assert isinstance(dataset, NonGeoDataset)
        assert len(dataset) == 3
        assert len(list(dataset)) == 3  # type: ignore[call-overload]

    def test_sample_has_the_documented_shapes_and_types(self) -> None:
        sample = SyntheticEO(size=40, modalities=ALL)[0]
        for m, channels in zip(ALL, (2, 13, 1, 3), strict=True):
            assert sample[f'image_{m}'].shape == (channels, 40, 40)
            assert sample[f'image_{m}'].dtype == torch.float32
        assert sample['mask'].shape == (40, 40)
        assert sample['mask'].dtype == torch.long
        for name in LABELS:
            assert sample[name].shape == ()
            assert sample[name].dtype == torch.long

    def test_reads_only_requested_modalities(self) -> None:
        sample = SyntheticEO(size=16, modalities=('dem', 's1'))[0]
        assert [k for k in sample if k.startswith('image')] == ['image_dem', 'image_s1']

    @pytest.mark.parametrize('size', [16, 33, 130])
    def test_values_are_finite_in_any_size(self, size: int) -> None:
        dataset = SyntheticEO(size=size, modalities=ALL)
        for kind in range(8):
            sample = dataset.render(0, label_common=kind)
            assert all(v.isfinite().all() for v in sample.values())

    def test_labels_stay_below_the_number_of_classes(
        self, scenes: dict[str, torch.Tensor]
    ) -> None:
        dataset = SyntheticEO(length=4)
        assert dataset.num_classes == dict(zip(LABELS, (8, 6, 6, 6), strict=True))
        for name, number in dataset.num_classes.items():
            assert 0 <= scenes[name].min() <= scenes[name].max() < number
        assert 0 <= scenes['mask'].min() <= scenes['mask'].max() < len(dataset.classes)

    def test_applies_transforms(self) -> None:
        dataset = SyntheticEO(size=16, transforms=lambda s: {'n': len(s)})
        assert dataset[0] == {'n': 7}

    def test_dates_change_the_weather_but_not_the_place(self) -> None:
        one = SyntheticEO(size=32, modalities=ALL)
        four = SyntheticEO(size=32, modalities=ALL, num_dates=4)
        a, b = one[1], four[1]
        for m in ALL:
            assert b[f'image_{m}'].shape == (4, *a[f'image_{m}'].shape)
        # The first date is the only one of a dataset with one date.
        assert torch.equal(a['image_s2'], b['image_s2'][0])
        for m in ('s1', 's2', 'rgb'):
            assert not torch.equal(b[f'image_{m}'][0], b[f'image_{m}'][1])
        assert torch.equal(b['image_dem'][0], b['image_dem'][3])
        assert all(torch.equal(a[k], b[k]) for k in (*LABELS, 'mask'))


class TestDeterminism:
    def test_index_determines_a_scene_in_any_order(self) -> None:
        a = SyntheticEO(length=6, size=32, modalities=ALL)
        b = SyntheticEO(length=99, size=32, modalities=ALL)
        forward = [a[i] for i in range(6)]
        backward = [b[i] for i in reversed(range(6))][::-1]
        assert all(equal(x, y) for x, y in zip(forward, backward, strict=True))

    def test_modalities_do_not_disturb_each_other(self) -> None:
        sample = SyntheticEO(size=32, modalities=ALL)[2]
        for m in ALL:
            alone = SyntheticEO(size=32, modalities=(m,))[2]
            assert torch.equal(alone[f'image_{m}'], sample[f'image_{m}'])

    def test_global_generators_do_not_matter(self) -> None:
        dataset = SyntheticEO(size=32)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        a = dataset[0]
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        assert equal(a, dataset[0])

    # Starting afresh would spend half a minute on imports.
    @pytest.mark.filterwarnings('ignore:.*fork:DeprecationWarning')
    def test_processes_compute_the_same_scene(self) -> None:
        with multiprocessing.get_context('fork').Pool(1) as pool:
            other = pool.map(make, [3])[0]
        here = make(3)
        assert all(np.array_equal(here[k], other[k]) for k in here)

    def test_seeds_and_indices_differ(self) -> None:
        a, b = SyntheticEO(size=32)[0], SyntheticEO(size=32)[1]
        c = SyntheticEO(size=32, seed=1)[0]
        assert not torch.equal(a['image_s1'], b['image_s1'])
        assert not torch.equal(a['image_s1'], c['image_s1'])


class TestLabels:
    @pytest.mark.parametrize('name', LABELS)
    def test_labels_are_uniform(self, drawn: dict[str, np.ndarray], name: str) -> None:
        counts = np.bincount(drawn[name], minlength=SyntheticEO().num_classes[name])
        statistic = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
        assert chi2.sf(statistic, len(counts) - 1) > 0.01

    @pytest.mark.parametrize(
        ('a', 'b'), [(a, b) for i, a in enumerate(LABELS) for b in LABELS[:i]]
    )
    def test_pairs_are_independent(
        self, drawn: dict[str, np.ndarray], a: str, b: str
    ) -> None:
        number = SyntheticEO().num_classes
        table = np.zeros((number[a], number[b]))
        np.add.at(table, (drawn[a], drawn[b]), 1)
        expected = len(drawn[a]) / table.size
        statistic = ((table - expected) ** 2 / expected).sum()
        assert chi2.sf(statistic, table.size - 1) > 0.01

    def test_synergy_needs_both(self, drawn: dict[str, np.ndarray]) -> None:
        both = (drawn['label_s1'] + drawn['label_s2']) % 6
        assert np.array_equal(drawn['label_synergy'], both)

    def test_multilabel_joins_the_first_three(self) -> None:
        dataset = SyntheticEO(size=16, multilabel=True)
        sample, sizes = dataset[5], (8, 6, 6)
        assert sample['label'].shape == (sum(sizes),)
        parts = sample['label'].split(sizes)
        found = [int(part.argmax()) for part in parts]
        assert found == [int(sample[k]) for k in list(dataset.num_classes)[:3]]
        assert [int(part.sum()) for part in parts] == [1, 1, 1]
        assert 'label' not in SyntheticEO(size=16)[5]

    def test_kept_scenes_are_the_same(self) -> None:
        dataset = SyntheticEO(size=16, cache=True)
        first, again, fresh = dataset[3], dataset[3], SyntheticEO(size=16)[3]
        assert again['image_s1'] is first['image_s1'] and again is not first
        assert all(torch.equal(again[key], fresh[key]) for key in fresh)

    def test_sample_has_the_drawn_labels(self) -> None:
        dataset = SyntheticEO(size=16)
        sample = dataset[7]
        assert {k: int(sample[k]) for k in LABELS} == dataset.draw_labels(7)


class TestFactors:
    """Check that a factor changes only the pixels of the sensors that see it."""

    @pytest.mark.parametrize('dates', [1, 2])
    @pytest.mark.parametrize(
        ('label', 'seen'),
        [
            ('label_common', {'s1', 's2', 'dem', 'rgb'}),
            ('label_s1', {'s1'}),
            ('label_s2', {'s2', 'rgb'}),
        ],
    )
    def test_who_sees_it(self, label: str, seen: set[str], dates: int) -> None:
        dataset = SyntheticEO(size=32, modalities=ALL, num_dates=dates)
        for index in range(3):
            # As seen in visible bands, states 0, 1 and 3 of label_s2 all differ.
            samples = [dataset.render(index, **{label: k}) for k in (0, 1, 3)]
            for m in ALL:
                images = [s[f'image_{m}'] for s in samples]
                same = [torch.equal(images[0], x) for x in images[1:]]
                assert not any(same) if m in seen else all(same)
            if label != 'label_common':
                assert torch.equal(samples[0]['mask'], samples[1]['mask'])

    def test_render_keeps_the_rest(self) -> None:
        dataset = SyntheticEO(size=32)
        sample = dataset[4]
        again = {k: int(sample[k]) for k in LABELS[:3]}
        assert equal(dataset.render(4, **again), sample)
        changed = dataset.render(4, label_s1=(again['label_s1'] + 1) % 6)
        assert changed['label_synergy'] == (sample['label_synergy'] + 1) % 6

    def test_unique_strength_zero_hides_the_unique_factors(self) -> None:
        dataset = SyntheticEO(size=32, unique_strength=0)
        a = dataset.render(0, label_s1=0, label_s2=0)
        b = dataset.render(0, label_s1=3, label_s2=4)
        assert torch.equal(a['image_s1'], b['image_s1'])
        assert torch.equal(a['image_s2'], b['image_s2'])

    def test_common_strength_zero_hides_the_landscape(self) -> None:
        dataset = SyntheticEO(size=32, modalities=ALL, common_strength=0)
        a = dataset.render(0, label_common=1)
        b = dataset.render(0, label_common=5)
        assert not torch.equal(a['mask'], b['mask'])
        for m in ALL:
            torch.testing.assert_close(a[f'image_{m}'], b[f'image_{m}'])

    def test_strengths_scale_the_contrast(self) -> None:
        def contrast(**kwargs: float) -> float:
            dataset = SyntheticEO(size=48, **kwargs)
            images = [
                dataset.render(0, label_common=2, label_s1=k)['image_s1']
                for k in (0, 3)
            ]
            mask = dataset.render(0, label_common=2)['mask']
            if 'unique_strength' in kwargs:
                return (images[0] - images[1]).std().item()
            return (
                images[0][0][mask == 3].mean() - images[0][0][mask == 4].mean()
            ).item()

        for name in ('common_strength', 'unique_strength'):
            low, high = (contrast(**{name: k}) for k in (0.5, 2.0))
            assert high > 2 * low > 0


class TestUnits:
    def test_check_passes(self, scenes: dict[str, torch.Tensor]) -> None:
        modalities = {m: Modality.of(KNOWN[m]) for m in ALL}
        check({m: scenes[f'image_{m}'] for m in ALL}, modalities)

    @pytest.mark.parametrize('m', ['s1', 's2'])
    def test_unit_interval_is_used(
        self, scenes: dict[str, torch.Tensor], m: str
    ) -> None:
        unit = ScaleToUnit(KNOWN[m])(scenes[f'image_{m}'])
        saturated = ((unit == 0) | (unit == 1)).float().mean((0, 2, 3))
        assert saturated.max() < 0.15
        deviation = unit.std((0, 2, 3))
        # The known statistics would give a mean of 0.5 and a deviation of 0.25.
        assert deviation.min() > 0.1
        assert deviation.max() < 0.35
        assert (unit.mean((0, 2, 3)) - 0.5).abs().max() < 0.2

    def test_digital_numbers_are_integers(
        self, scenes: dict[str, torch.Tensor]
    ) -> None:
        for m in ('s2', 'rgb'):
            image = scenes[f'image_{m}']
            assert torch.equal(image, image.round())
        assert scenes['image_s2'].min() >= 1
        assert scenes['image_rgb'].min() >= 0
        assert scenes['image_rgb'].max() <= 255

    def test_water_is_dark_and_trees_are_high(
        self, scenes: dict[str, torch.Tensor]
    ) -> None:
        water, forest = scenes['mask'] == 0, scenes['mask'] == 1
        for m, band in (('s1', 0), ('s2', 7), ('dem', 0)):
            image = scenes[f'image_{m}'][:, band]
            lakes = [i for i in range(len(image)) if water[i].any() and forest[i].any()]
            assert lakes
            for i in lakes:
                assert image[i][forest[i]].mean() > image[i][water[i]].mean()


class TestErrors:
    @pytest.mark.parametrize(
        ('kwargs', 'message'),
        [
            (
                {'modalities': ('s1', 's3')},
                r"must be .* of \['s1', 's2', 'dem', 'rgb'\] without duplicates, got \['s1', 's3'\]",
            ),
            ({'modalities': ()}, r'modalities must be .*, got \[\]'),
            (
                {'modalities': ('s1', 's1')},
                r"modalities must be .* without duplicates, got \['s1', 's1'\]",
            ),
            ({'length': 0}, 'length must be at least 1, got 0'),
            ({'size': 15}, 'size must be at least 16, got 15'),
            ({'seed': -1}, 'seed must be at least 0, got -1'),
            ({'num_dates': 0}, 'num_dates must be at least 1, got 0'),
            ({'common_strength': -1}, 'common_strength must be at least 0, got -1'),
            (
                {'unique_strength': float('nan')},
                'unique_strength must be at least 0, got nan',
            ),
        ],
    )
    def test_rejects_invalid_arguments(
        self, kwargs: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            SyntheticEO(**kwargs)

    @pytest.mark.parametrize('index', [-1, 4])
    def test_refuses_an_index_out_of_range(self, index: int) -> None:
        with pytest.raises(
            IndexError, match=rf'index must be in \[0, 3\], got {index}'
        ):
            SyntheticEO(length=4, size=16)[index]

    def test_render_refuses_unknown_labels(self) -> None:
        dataset = SyntheticEO(size=16)
        with pytest.raises(ValueError, match=r"labels must be among .* got 'label_x'"):
            dataset.render(0, label_x=1)
        with pytest.raises(ValueError, match=r'label_s1 must be in \[0, 5\], got 6'):
            dataset.render(0, label_s1=6)

    @pytest.mark.parametrize(
        ('kwargs', 'message'),
        [
            ({'layout': 'zip'}, "layout must be one of .*'geonrw'.*, got 'zip'"),
            (
                {'layout': 'geonrw', 'num_scenes': 3},
                r'num_scenes must be in \[1, 2\], got 3',
            ),
            (
                {'layout': 'geonrw', 'splits': (1, 0, 0)},
                r"options of geonrw must be among \('cities',\), got \['splits'\]",
            ),
            (
                {'layout': 'geonrw', 'cities': ['paris']},
                r"cities must be one or more of .*, got \['paris'\]",
            ),
            ({'layout': 'bigearthnet_v2'}, 'size must be a multiple of 6 .* got 16'),
        ],
    )
    def test_write(self, tmp_path: Path, kwargs: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            SyntheticEO(length=2, size=16).write(tmp_path / 'x', **kwargs)
        assert not (tmp_path / 'x').exists()

    def test_write_splits(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r'splits must be .* got \[0.5, 0.5\]'):
            SyntheticEO(length=2, size=18).write(
                tmp_path / 'x', 'bigearthnet_v2', splits=(0.5, 0.5)
            )

    def test_write_refuses_a_folder_with_files(self, tmp_path: Path) -> None:
        (tmp_path / 'precious').touch()
        with pytest.raises(ValueError, match='root must be a new or empty directory'):
            SyntheticEO(length=2, size=16).write(tmp_path, 'geonrw')
        assert (tmp_path / 'precious').exists()


class TestPlot:
    def test_draws_all_modalities_and_dates(self) -> None:
        dataset = SyntheticEO(size=16, modalities=ALL, num_dates=2)
        figure = dataset.plot(dataset[0])
        assert isinstance(figure, plt.Figure)
        assert len(figure.axes) == 2 * (len(ALL) + 1)

    def test_titles_name_the_labels(self) -> None:
        dataset = SyntheticEO(size=16)
        sample = dataset[0]
        name = dataset.label_classes['label_common'][int(sample['label_common'])]
        assert name in dataset.plot(sample).get_suptitle()
        assert dataset.plot(sample, suptitle='mine').get_suptitle() == 'mine'
        bare = dataset.plot(sample, show_titles=False)
        assert bare.get_suptitle() == ''
        assert all(a.get_title() == '' for a in bare.axes)

    def test_draws_only_predictions_that_are_maps(self) -> None:
        dataset = SyntheticEO(size=16)
        sample = dataset[0]
        figure = dataset.plot({**sample, 'prediction': 1 - sample['mask'].clamp(max=1)})
        assert figure.axes[-1].get_title() == 'prediction'
        label = dataset.plot({**sample, 'prediction': sample['label_common']})
        assert len(label.axes) == len(figure.axes) - 1

    def test_sample_is_unchanged(self) -> None:
        dataset = SyntheticEO(size=16, modalities=ALL)
        sample = dataset[0]
        dataset.plot(sample)
        assert equal(sample, dataset[0])


class TestWrite:
    def test_torchgeo_reads_written_ssl4eo_s12(self, tmp_path: Path) -> None:
        dataset = SyntheticEO(length=2, size=264, num_dates=2)
        dataset.write(tmp_path, 'ssl4eo_s12', progress=False, surface=True)
        for index in range(2):
            sample = dataset[index]
            for split, m in (('s1', 's1'), ('s2c', 's2')):
                read = SSL4EOS12(str(tmp_path), split, seasons=2)[index]  # type: ignore[arg-type]
                # TorchGeo reads the dates in random order.
                dates = read['image'].unflatten(0, (2, -1))[read['t'].argsort()]
                assert torch.equal(dates, sample[f'image_{m}'])
            read = SSL4EOS12(str(tmp_path), 's2a', seasons=1)[index]['image']
            assert any(
                torch.equal(
                    read, torch.tensor(np.stack(list(_surface(x).values()))).float()
                )
                for x in sample['image_s2'].numpy()
            )
        for path in tmp_path.glob('s*/*/*/*.tif'):
            with rasterio.open(path) as file:
                assert file.res == (10, 10)
                assert file.crs.to_epsg() == 32633
                assert file.dtypes[0] == ('float32' if 's1' in path.parts else 'uint16')

    def test_torchgeo_reads_written_bigearthnet_v2(self, tmp_path: Path) -> None:
        dataset = SyntheticEO(length=4, size=120)
        dataset.write(tmp_path, 'bigearthnet_v2', progress=False)
        order = {'train': [0, 1], 'val': [2], 'test': [3]}
        for split, indices in order.items():
            reader = BigEarthNetV2(str(tmp_path), split)  # type: ignore[arg-type]
            assert len(reader) == len(indices)
            for read, index in zip(
                (reader[i] for i in range(len(reader))), indices, strict=True
            ):
                sample = dataset[index]
                # TorchGeo sorts VH before VV and reads whole numbers.
                error = read['image_s1'] - sample['image_s1'].flip(0)
                assert error.abs().max() < 1
                surface = _surface(sample['image_s2'].numpy())
                fine = [
                    b
                    for b, name in enumerate(surface)
                    if name in ('B2', 'B3', 'B4', 'B8')
                ]
                ours = torch.tensor(np.stack(list(surface.values()))).float()
                assert torch.equal(read['image_s2'][fine], ours[fine])
                assert read['image_s2'].shape == (12, 120, 120)
                covers = {dataset.classes[k] for k in sample['mask'].unique().tolist()}
                names = {reader.class_set[k] for k in read['label'].nonzero().flatten()}
                assert ('Inland waters' in names) <= ('water' in covers)
                assert 1 <= len(names) <= len(covers)
                assert torch.equal(read['mask'][0] == 8, sample['mask'] == 1)
        sizes = set()
        for path in tmp_path.glob('BigEarthNet-S2/*/*/*.tif'):
            with rasterio.open(path) as file:
                sizes.add((file.width, file.res[0]))
                assert file.width * file.res[0] == 1200
        assert sizes == {(120, 10), (60, 20), (20, 60)}

    def test_coarse_bands_are_block_means(self, tmp_path: Path) -> None:
        dataset = SyntheticEO(length=1, size=18)
        dataset.write(tmp_path, 'bigearthnet_v2', progress=False)
        surface = _surface(dataset[0]['image_s2'].numpy())
        for band, factor in (('B5', 2), ('B9', 6)):
            (path,) = tmp_path.glob(f'BigEarthNet-S2/*/*/*_B{band[1:]:>02}.tif')
            with rasterio.open(path) as file:
                read = file.read(1)
            block = surface[band][:factor, :factor].mean()
            assert abs(read[0, 0] - block) <= 0.5

    def test_torchgeo_reads_written_geonrw(self, tmp_path: Path) -> None:
        dataset = SyntheticEO(length=3, size=40, modalities=('rgb', 'dem'))
        dataset.write(tmp_path, 'geonrw', progress=False, cities=('bonn', 'neuss'))
        for split, indices in (('train', [0, 2]), ('test', [1])):
            reader = GeoNRW(str(tmp_path), split)  # type: ignore[arg-type]
            assert len(reader) == len(indices)
            for read, index in zip(
                (reader[i] for i in range(len(reader))), indices, strict=True
            ):
                sample = dataset[index]
                rgb = (read['image'] * 255).round()
                assert torch.equal(rgb, sample['image_rgb'])
                assert torch.equal(read['dem'], sample['image_dem'])
                codes = torch.tensor([_GEONRW[k] for k in range(8)])
                assert torch.equal(read['mask'], codes[sample['mask']])

    def test_images_are_georeferenced_alike(self, tmp_path: Path) -> None:
        SyntheticEO(length=1, size=40).write(tmp_path, 'geonrw', progress=False)
        transforms = []
        for path in tmp_path.glob('aachen/*_*_*.*'):
            if path.suffix in ('.jp2', '.tif'):
                with rasterio.open(path) as file:
                    transforms.append(file.transform)
        assert len(transforms) == 3
        assert len(set(transforms)) == 1

    def test_writing_twice_gives_the_same_files(self, tmp_path: Path) -> None:
        dataset = SyntheticEO(length=2, size=24, modalities=('dem',))
        contents = []
        for name in 'ab':
            dataset.write(tmp_path / name, 'ssl4eo_s12', num_scenes=1, progress=False)
            files = sorted((tmp_path / name).rglob('*.tif'))
            contents.append(
                {f.relative_to(tmp_path / name): f.read_bytes() for f in files}
            )
        assert contents[0] == contents[1]
        assert len(contents[0]) == 15

    def test_an_interrupted_write_leaves_no_root(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = SyntheticEO(length=2, size=16)
        root = tmp_path / 'data'
        original = SyntheticEO.__getitem__

        def fail(self: SyntheticEO, index: int) -> dict[str, Any]:
            if index == 1:
                raise KeyboardInterrupt
            return original(self, index)

        with monkeypatch.context() as patch:
            patch.setattr(SyntheticEO, '__getitem__', fail)
            with pytest.raises(KeyboardInterrupt):
                dataset.write(root, 'ssl4eo_s12', progress=False)
        assert not root.exists()
        dataset.write(root, 'ssl4eo_s12', progress=False)
        assert len(list(root.glob('s1/*'))) == 2
        assert not root.with_name('data.partial').exists()

    def test_shows_progress(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        SyntheticEO(length=1, size=16).write(tmp_path, 'ssl4eo_s12')
        assert 'ssl4eo_s12' in capsys.readouterr().err
