"""Compare two processes with different data with one process that has all data."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from torchgeo_decur.datamodules import PackedDataModule

SCRIPT = Path(__file__).with_name('ddp_fit.py')
SCENES = 24  # of the validation split

Found = dict[str, dict[str, Any]]


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory, packed: Path) -> Path:
    """Return the folder of a fit in two processes, the second started by Lightning."""
    folder = tmp_path_factory.mktemp('ddp')
    (folder / 'packed').symlink_to(packed)
    done = subprocess.run(
        [sys.executable, SCRIPT, folder, '2'],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert 'It is recommended' not in done.stderr, done.stderr
    return folder


@pytest.fixture(scope='module')
def ranks(folder: Path) -> list[Found]:
    """Return the records of both processes."""
    return [torch.load(folder / f'rank{i}.pt', weights_only=True) for i in (0, 1)]


@pytest.fixture(scope='module')
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the same step in this process, with the batch of both."""
    fit = runpy.run_path(str(SCRIPT))['fit_as_one']
    found: dict[str, Any] = fit(tmp_path_factory.mktemp('alone'), 1)
    return found


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found['losses'] == pytest.approx(expected['losses'], rel=1e-5)
    assert list(found['gradients']) == list(expected['gradients'])
    one, other = (
        torch.cat([g.flatten() for g in x['gradients'].values()])
        for x in (found, expected)
    )
    assert (one - other).norm() < 1e-5 * other.norm()


def test_value_and_gradient_equal_one_process(
    ranks: list[Found], alone: dict[str, Any]
) -> None:
    for rank in ranks:
        assert_equal(rank['as_one'], alone)


def test_checkpointed_micro_batches_equal_the_batch_of_one(
    ranks: list[Found], tmp_path: Path
) -> None:
    fit = runpy.run_path(str(SCRIPT))['fit_in_micro_batches']
    expected = fit(tmp_path, 1, micro_batch_size=None)
    for rank in ranks:
        assert_equal(rank['cached'], expected)


def test_processes_with_different_modalities_equal_one(
    ranks: list[Found], tmp_path: Path
) -> None:
    fit = runpy.run_path(str(SCRIPT))['fit_partly_paired']
    expected = fit(tmp_path, 1)
    assert expected['metrics']['train_pairs_s1_s2'] == 6
    assert expected['metrics']['train_common_s1_s2'] > 0
    for rank in ranks:
        assert_equal(rank['partly'], expected)
        assert rank['partly']['metrics']['train_pairs_s1_s2'] == 6


def test_processes_agree_on_a_collapse(ranks: list[Found]) -> None:
    # Their mean is below the bound, and the value of the second is not.
    expected = {'collapsed': ['std_s1'], 'epochs': 3}
    assert [rank['collapse'] for rank in ranks] == [expected, expected]


def test_processes_hold_different_data(
    ranks: list[Found], alone: dict[str, Any]
) -> None:
    shares = [rank['as_one']['seen'][0] for rank in ranks]
    assert [len(share) for share in shares] == [4, 4]
    both, (whole,) = torch.cat(shares), alone['seen']
    assert len(whole.unique()) == 8
    assert torch.equal(both.sort().values, whole.sort().values)


class TestBatchNormOfEachProcess:
    """Check a fit of two epochs with logger, probe and export."""

    def test_criterion_is_equal_on_both_ranks(
        self, ranks: list[Found], alone: dict[str, Any]
    ) -> None:
        losses = [rank['callbacks']['losses'] for rank in ranks]
        assert len(losses[0]) == 2 and losses[0] == losses[1]
        # Statistics of half the batch matter: synchronising made them equal above.
        assert losses[0][0] != pytest.approx(alone['losses'][0], rel=1e-3)

    def test_weights_are_equal(self, ranks: list[Found]) -> None:
        first, second = (rank['callbacks']['weights'] for rank in ranks)
        assert not [n for n, w in first.items() if not torch.equal(w, second[n])]

    def test_metrics_are_equal(self, ranks: list[Found]) -> None:
        first, second = (rank['callbacks']['metrics'] for rank in ranks)
        expected = {'train_loss', 'val_loss', 'std_s1', 'rank_s2', 'lr'}
        assert expected | {'probe_label_s1_s1+s2_linear'} <= set(first)
        assert first == second

    def test_epochs_are_shuffled_and_shared_without_overlap(
        self, ranks: list[Found], alone: dict[str, Any]
    ) -> None:
        epochs = list(zip(*(rank['callbacks']['seen'] for rank in ranks), strict=True))
        orders = [torch.cat(shares) for shares in epochs]
        (whole,) = alone['seen']
        for order in orders:
            torch.testing.assert_close(order.sort().values, whole.float().sort().values)
        assert len(orders) == 2 and not torch.equal(*orders)

    def test_probe_uses_the_features_of_both(self, ranks: list[Found]) -> None:
        first, second = (rank['callbacks']['features'] for rank in ranks)
        assert first.shape == (SCENES, 2 * 96) and torch.equal(first, second)
        assert len(first.unique(dim=0)) == SCENES
        rows = [rank['callbacks']['rows'] for rank in ranks]
        assert rows[0] == rows[1]
        assert {row['epoch'] for row in rows[0]} == {-1, 0, 1}

    def test_only_the_first_process_writes(
        self, ranks: list[Found], folder: Path
    ) -> None:
        run = folder / 'run'
        paths = [str(run / 'encoders' / m) for m in ('s1', 's2')]
        assert [rank['callbacks']['saved'] for rank in ranks] == [paths, []]
        written = {str(p.relative_to(run)) for p in run.rglob('*') if p.is_file()}
        names = {
            f'encoders/{m}.{s}' for m in ('s1', 's2') for s in ('pt', 'safetensors')
        }
        assert written >= names | {'probe.csv', 'probe.png', 'metrics.csv'}
        assert not [name for name in written if 'partial' in name]


class TestPackedData:
    """Check two epochs of four steps with workers that read shards of five samples."""

    def test_each_sample_is_seen_once_per_epoch(
        self, ranks: list[Found], packed: Path
    ) -> None:
        scenes = PackedDataModule(str(packed))
        scenes.setup('fit')
        images = [scenes.train_dataset[i]['image_s1'] for i in range(32)]
        scaled = scenes.aug({'image_s1': torch.stack(images)})['image_s1']
        expected = scaled.flatten(1).mean(1).sort().values
        orders = []
        for epoch in (slice(0, 4), slice(4, 8)):
            shares = [torch.cat(rank['packed']['whole'][epoch]) for rank in ranks]
            assert [len(share) for share in shares] == [16, 16]
            orders.append(torch.cat(shares))
            torch.testing.assert_close(orders[-1].sort().values, expected)
        assert not torch.equal(*orders)

    def test_resumes_inside_an_epoch(self, ranks: list[Found]) -> None:
        for rank in ranks:
            found = rank['packed']
            assert len(found['whole']) == 8 and len(found['seen']) == 5
            for batch, again in zip(found['whole'][3:], found['seen'], strict=True):
                assert torch.equal(batch, again)
            other = found['resumed']
            differ = [n for n, w in found['weights'].items() if not w.equal(other[n])]
            assert differ == []
