import csv
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchgeo.tasks import Classification

from tests.helpers.small_fits import trainer as small
from torchgeo_decur.callbacks import OnlineProbe, online_probe
from torchgeo_decur.datamodules import SyntheticEODataModule
from torchgeo_decur.datamodules.base import MultimodalDataModule
from torchgeo_decur.models import build_projector
from torchgeo_decur.tasks import DeCUR


class Bits(Dataset[dict[str, Tensor]]):
    """Data whose modality `a` has three random bits in its bands, and `b` noise."""

    def __init__(self, length: int, labels: bool = True) -> None:
        generator = torch.Generator().manual_seed(length)
        rare = torch.tensor([0.5, 0.5, 0.2])
        self.bits = (torch.rand(length, 3, generator=generator) < rare).float()
        self.noise = torch.rand(length, 4, 8, 8, generator=generator)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        bits, noise = self.bits[index], self.noise[index]
        a = 0.1 + 0.7 * bits[:, None, None] + 0.1 * noise[:3]
        labels = {
            'label': (bits[0] + 2 * bits[1]).long(),
            'label_bits': bits.long(),
            'label_rare': bits[2:].long(),
            'label_number': 500 + bits[0] / 3 + bits[1] / 2,
        }
        return {'image_a': a, 'image_b': noise[3:], **(labels if self.labels else {})}


class BitsDataModule(MultimodalDataModule):
    def __init__(self, val_length: int = 240, labels: bool = True) -> None:
        super().__init__({m: self.band(c) for m, c in (('a', 3), ('b', 1))}, 8)
        self.train_dataset = Bits(16, labels)
        self.val_dataset = Bits(val_length, labels)

    @staticmethod
    def band(channels: int) -> dict[str, Any]:
        bands = [f'band {i}' for i in range(channels)]
        return {'bands': bands, 'kind': 'multispectral', 'unit': 'native'}

    def setup(self, stage: str) -> None:
        """Do nothing, because the datasets exist."""


class Means(DeCUR):
    """Task whose features are the means of the bands, before and after training."""

    def __init__(self) -> None:
        identity = {'a': nn.Identity(), 'b': nn.Identity()}
        super().__init__(
            {'a': 3, 'b': 1}, 'test_resnet', None, [8], augmentations=identity
        )

    def configure_models(self) -> None:
        super().configure_models()
        for m, channels in (('a', 3), ('b', 1)):
            means = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.encoders.encoders[m] = means
            self.projectors[m] = build_projector(channels, [8])


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    fixed = {'default_root_dir': folder, 'callbacks': list(callbacks)}
    return small(**{'num_sanity_val_steps': 2, **fixed, **options})


def scores(probe: OnlineProbe, epoch: int) -> dict[tuple[str, str, str], float]:
    return {
        (r['label'], r['features'], r['classifier']): r['score']
        for r in probe.rows
        if r['epoch'] == epoch
    }


def epochs(probe: OnlineProbe) -> list[int]:
    """Return the epochs of the rows of one label, features and classifier."""
    chosen = ('label', 'a', 'knn')
    return [
        r['epoch']
        for r in probe.rows
        if (r['label'], r['features'], r['classifier']) == chosen
    ]


@pytest.fixture(scope='module')
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[OnlineProbe, Path, Any]:
    """Return a probe of known features, the folder of the fit and the logged scores."""
    folder, probe = tmp_path_factory.mktemp('known'), OnlineProbe(k=3)
    fit = trainer(folder, probe)
    fit.fit(Means(), datamodule=BitsDataModule())
    return probe, folder, fit.callback_metrics


Known = tuple[OnlineProbe, Path, dict[str, Tensor]]


class TestKnownAnswers:
    @pytest.mark.parametrize('epoch', [-1, 0])
    @pytest.mark.parametrize('classifier', ['knn', 'linear'])
    @pytest.mark.parametrize('label', ['label', 'label_bits', 'label_rare'])
    def test_features_that_determine_the_label(
        self, known: Known, label: str, classifier: str, epoch: int
    ) -> None:
        found = scores(known[0], epoch)
        assert found[label, 'a', classifier] == pytest.approx(100)
        assert found[label, 'a+b', classifier] > 99

    @pytest.mark.parametrize('classifier', ['knn', 'linear'])
    @pytest.mark.parametrize(
        ('label', 'chance'), [('label', 25), ('label_bits', 40), ('label_rare', 20)]
    )
    def test_scores_features_of_noise_at_chance(
        self, known: Known, label: str, chance: float, classifier: str
    ) -> None:
        # Average precision of noise is the share of ones, not of right answers.
        found = scores(known[0], 0)[label, 'b', classifier]
        assert found == pytest.approx(chance, abs=12)

    @pytest.mark.parametrize('epoch', [-1, 0])
    def test_numbers_are_scored_by_their_r2(self, known: Known, epoch: int) -> None:
        found = scores(known[0], epoch)
        assert found['label_number', 'a', 'linear'] > 99
        assert found['label_number', 'a', 'knn'] > 99
        assert found['label_number', 'b', 'linear'] < 10

    def test_every_score_is_logged_and_written(self, known: Known) -> None:
        probe, folder, metrics = known
        assert len(probe.rows) == 2 * 4 * 3 * 2
        for (label, features, classifier), score in scores(probe, 0).items():
            name = f'probe_{label}_{features}_{classifier}'
            assert metrics[name].item() == pytest.approx(score)
        with (folder / 'probe.csv').open() as file:
            written = list(csv.DictReader(file))
        assert [{k: str(v) for k, v in r.items()} for r in probe.rows] == written
        assert plt.imread(folder / 'probe.png').ndim == 3
        assert not list(folder.glob('.*partial*'))

    def test_ignores_a_label_of_one_class(self) -> None:
        x = torch.rand(40, 2).numpy()
        for y in (torch.zeros(40), torch.zeros(40, 3), torch.ones(40, 1)):
            assert list(online_probe._scores(x, y.numpy(), 3)) == []


class TestEpochs:
    def test_runs_every_n_epochs_and_in_the_last(self, tmp_path: Path) -> None:
        probe = OnlineProbe(every_n_epochs=2)
        fit = trainer(tmp_path, probe, max_epochs=5, num_sanity_val_steps=2)
        fit.fit(Means(), datamodule=BitsDataModule(24))
        assert epochs(probe) == [-1, 1, 3, 4]

    @pytest.mark.parametrize(
        ('limits', 'expected'),
        [
            ({'max_epochs': -1, 'max_steps': 6}, [-1, 1, 2]),
            # The third epoch is cut short, and not validated.
            ({'max_epochs': -1, 'max_steps': 7}, [-1, 1, 2]),
            ({'max_epochs': 9, 'max_steps': 2}, [-1, 0]),
        ],
        ids=['whole epochs', 'cut third epoch', 'one epoch'],
    )
    def test_runs_in_the_last_epoch_under_max_steps(
        self, tmp_path: Path, limits: dict[str, int], expected: list[int]
    ) -> None:
        probe = OnlineProbe(every_n_epochs=2)
        trainer(tmp_path, probe, **limits).fit(Means(), datamodule=BitsDataModule(24))
        assert epochs(probe) == expected

    def test_last_scores_of_an_epoch_count(self, tmp_path: Path) -> None:
        probe = OnlineProbe()
        fit = trainer(tmp_path, probe, max_epochs=2, val_check_interval=0.5)
        fit.fit(Means(), datamodule=BitsDataModule(24))
        assert epochs(probe) == [-1, 0, 1]

    def test_resumed_fit_keeps_the_scores(self, tmp_path: Path) -> None:
        def fit(epochs: int, path: Path | None = None) -> OnlineProbe:
            probe, save = OnlineProbe(), ModelCheckpoint(tmp_path, save_last=True)
            trainer(
                tmp_path, probe, save, max_epochs=epochs, enable_checkpointing=True
            ).fit(Means(), datamodule=BitsDataModule(24), ckpt_path=path)
            return probe

        first = fit(2)
        second = fit(3, tmp_path / 'last.ckpt')
        assert epochs(second) == [-1, 0, 1, 2]
        assert second.rows[: len(first.rows)] == first.rows

    def test_runs_in_a_validation_without_a_fit(self, tmp_path: Path) -> None:
        probe = OnlineProbe()
        (metrics,) = trainer(tmp_path, probe).validate(
            Means(), BitsDataModule(24), verbose=False
        )
        assert epochs(probe) == [0]
        assert metrics['probe_label_a_linear'] == pytest.approx(100)
        assert list(tmp_path.iterdir()) == []


class TestSamples:
    @pytest.mark.parametrize('first', [True, False])
    def test_skips_strings_maps_and_loaders_without_labels(
        self, tmp_path: Path, first: bool
    ) -> None:
        strange = {'label_name': 'field', 'label_map': torch.zeros(8, 8)}
        labelled: Any = DataLoader([{**x, **strange} for x in Bits(24)], 8)  # type: ignore[arg-type]
        plain: Any = DataLoader(Bits(16, labels=False), 8)
        probe, loaders = OnlineProbe(), [labelled, plain]
        fit = trainer(tmp_path, probe)
        fit.fit(Means(), labelled, loaders if first else loaders[::-1])
        found = scores(probe, 0)
        names = {'label', 'label_bits', 'label_rare', 'label_number'}
        assert {label for label, _, _ in found} == names
        assert found['label', 'a', 'linear'] == pytest.approx(100)

    def test_uses_at_most_max_samples(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes = []
        score = online_probe._scores

        def note(x: Any, y: Any, k: int) -> Any:
            sizes.append((len(x), len(y)))
            return score(x, y, k)

        monkeypatch.setattr(online_probe, '_scores', note)
        probe = OnlineProbe(k=3, max_samples=20)
        trainer(tmp_path, probe).fit(Means(), datamodule=BitsDataModule())
        assert set(sizes) == {(20, 20)}

    def test_does_not_change_training(self, tmp_path: Path) -> None:
        def fit(*callbacks: Callback) -> dict[str, Tensor]:
            seed_everything(3, verbose=False)
            task = DeCUR(
                {'s1': 2, 's2': 13}, 'test_resnet', projector=[8], size=32, lr=1e-2
            )
            data = SyntheticEODataModule(
                length=16, val_length=16, batch_size=8, size=32
            )
            trainer(tmp_path, *callbacks, max_epochs=2).fit(task, datamodule=data)
            return task.state_dict()

        without, probed = fit(), fit(OnlineProbe(k=3))
        assert not [k for k, v in without.items() if not torch.equal(v, probed[k])]

    def test_ignores_a_batch_of_one_sample(self, tmp_path: Path) -> None:
        task = DeCUR({'s1': 2, 's2': 13}, 'test_resnet', projector=[8], size=32)
        data = SyntheticEODataModule(length=8, val_length=17, batch_size=8, size=32)
        probe = OnlineProbe(k=3)
        trainer(tmp_path, probe).fit(task, datamodule=data)
        assert {r['epoch'] for r in probe.rows} == {-1, 0}

    def test_reads_bands_stacked_in_one_image(self, tmp_path: Path) -> None:
        samples = [
            {'image': torch.cat([s['image_a'], s['image_b']]), 'label': s['label']}
            for s in Bits(24)
        ]
        loader = DataLoader(samples, 8)
        probe = OnlineProbe()
        trainer(tmp_path, probe).fit(Means(), loader, loader)
        assert scores(probe, 0)['label', 'a', 'linear'] == pytest.approx(100)

    @pytest.mark.parametrize(
        ('data', 'found'),
        [
            ({'labels': False}, 'found labels [] for 240 samples'),
            ({'val_length': 10}, "'label_rare', 'label_number'] for 10 samples"),
        ],
    )
    def test_reports_once_that_nothing_can_be_probed(
        self,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        data: dict[str, Any],
        found: str,
    ) -> None:
        probe = OnlineProbe()
        fit = trainer(tmp_path, probe, max_epochs=3)
        fit.fit(Means(), datamodule=BitsDataModule(**data))
        assert fit.current_epoch == 3 and probe.rows == []
        said = [m for m in caplog.messages if m.startswith('OnlineProbe')]
        assert len(said) == 1 and found in said[0]
        assert list(tmp_path.iterdir()) == []

    def test_fast_dev_run_writes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        fit = trainer(tmp_path, OnlineProbe(k=1), fast_dev_run=True)
        fit.fit(Means(), datamodule=BitsDataModule())
        assert list(tmp_path.iterdir()) == []


@pytest.fixture
def probe() -> OnlineProbe:
    """Return a probe after two epochs, as from a checkpoint."""
    rows = [
        {
            'epoch': epoch,
            'label': label,
            'features': features,
            'classifier': classifier,
            'score': 10.0 * (epoch + 1) + i,
        }
        for epoch in (-1, 1, 3)
        for label in ('label_one', 'label_two')
        for features in ('a', 'a+b')
        for i, classifier in enumerate(('knn', 'linear'))
    ]
    made = OnlineProbe(k=7)
    made.load_state_dict({'rows': rows})
    return made


class TestReport:
    def test_table_has_a_row_for_each_label_and_input(self, probe: OnlineProbe) -> None:
        title, head, *lines = probe.table().split('\n')
        assert title == (
            'Probe of frozen features after epoch 4, in %: trained (untrained)'
        )
        assert head.split() == ['label', 'features', '7-NN', 'linear']
        cells = ['40.0', '(0.0)', '41.0', '(1.0)']
        assert [line.split() for line in lines] == [
            [label, features, *cells]
            for label in ('label_one', 'label_two')
            for features in ('a', 'a+b')
        ]
        assert len({len(line) for line in (head, *lines)}) == 1

    def test_table_leaves_out_untrained_encoders_without_scores(
        self, probe: OnlineProbe
    ) -> None:
        probe.rows = [r for r in probe.rows if r['epoch'] >= 0]
        assert probe.table().split('\n')[2].split()[2:] == ['40.0', '41.0']

    def test_draws_a_sample(self, probe: OnlineProbe) -> None:
        probe.rows.reverse()  # points are in the order of epochs all the same
        figure = probe.plot()
        assert [axis.get_title() for axis in figure.axes] == ['label_two', 'label_one']
        for axis in figure.axes:
            lines = {str(line.get_label()): line for line in axis.get_lines()}
            assert set(lines) == {'a', 'a+b'}
            for line in lines.values():
                assert list(line.get_xdata()) == [0, 2, 4]
                assert list(line.get_ydata()) == [1, 21, 41]
        plt.close(figure)

    def test_state_restores_the_scores(self, probe: OnlineProbe) -> None:
        other = OnlineProbe()
        other.load_state_dict(probe.state_dict())
        assert other.rows == probe.rows


class TestErrors:
    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ({'every_n_epochs': 0}, 'every_n_epochs must be positive, got 0'),
            ({'k': 0}, 'k must be positive, got 0'),
            (
                {'k': 8, 'max_samples': 15},
                'max_samples must be at least 16 for k=8, got 15',
            ),
        ],
    )
    def test_rejects_invalid_arguments(
        self, arguments: dict[str, int], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            OnlineProbe(**arguments)

    def test_refuses_a_task_without_encoders(self, tmp_path: Path) -> None:
        task: LightningModule = Classification('test_resnet', num_classes=2)
        with pytest.raises(ValueError, match=r'one encoder per .*, got Classification'):
            trainer(tmp_path, OnlineProbe()).fit(task, datamodule=BitsDataModule())


def test_features_of_the_samples_that_have_a_modality() -> None:
    seen: list[dict[str, int]] = []

    def encode(images: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append({m: len(x) for m, x in images.items()})
        means = {m: x.mean((2, 3)) for m, x in images.items()}
        return means | {'joint': sum(x.sum(1, keepdim=True) for x in means.values())}

    images = {'s1': torch.rand(5, 2, 4, 4), 's2': torch.rand(5, 3, 4, 4)}
    available = {'s1': torch.tensor([True, True, True, False, False])}
    has = online_probe._masks(available, images, 5)
    found = online_probe._encode(encode, images, has)
    assert seen == [{'s1': 3}, {'s2': 5}, {'s1': 3, 's2': 3}]
    whole = encode(images)
    for name, rows in (('s1', 3), ('s2', 5), ('joint', 3)):
        torch.testing.assert_close(found[name][:rows], whole[name][:rows])
        assert not found[name][rows:].any()
    # BatchNorm needs two samples.
    alone = {'s1': torch.tensor([True, False, False, False, False])}
    assert not online_probe._masks(alone, images, 5)['s1'].any()
    assert online_probe._encode(encode, images, {})['s1'].shape == (5, 2)
