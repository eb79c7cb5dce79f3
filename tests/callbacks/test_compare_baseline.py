"""Compare a small fit with a baseline."""

import csv
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger

from torchgeo_decur.callbacks import CompareBaseline, OnlineProbe, compare_baseline
from torchgeo_decur.datamodules import SyntheticFactorsDataModule
from torchgeo_decur.tasks import BarlowTwins, DeCUR, FactorCL


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    return Trainer(
        accelerator='cpu',
        devices=1,
        max_epochs=2,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        logger=CSVLogger(folder, name=None, version='run'),
        callbacks=list(callbacks),
        **options,
    )


def task(kind: type[DeCUR] | type[BarlowTwins] = DeCUR, **options: Any) -> Any:
    seed_everything(3)
    modalities = options.pop('modalities', {'s1': 2, 's2': 13})
    return kind(modalities, 'test_resnet', projector=[8, 8], size=16, **options)


def data(**options: Any) -> SyntheticFactorsDataModule:
    return SyntheticFactorsDataModule(
        length=16,
        val_length=32,
        batch_size=8,
        size=16,
        shared=1,
        unique={'s1': 1, 's2': 0},
        states=2,
        **options,
    )


@pytest.fixture(scope='module')
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompareBaseline, Path]:
    folder = tmp_path_factory.mktemp('compared')
    compare, probe = CompareBaseline(), OnlineProbe()
    model, datamodule = task(), data()
    fit = trainer(folder, probe, compare)
    fit.fit(model, datamodule)
    assert datamodule.trainer is fit
    return compare, folder / 'run'


def test_writes_table_and_figure(compared: tuple[CompareBaseline, Path]) -> None:
    compare, folder = compared
    with (folder / 'comparison.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [r['label'] for r in rows] == ['label_shared_0', 'label_s1_0']
    assert list(rows[0]) == ['label', 'features', 'untrained', 'BarlowTwins', 'DeCUR']
    assert all(0 <= float(r[n]) <= 100 for r in rows for n in list(rows[0])[2:])
    assert (folder / 'comparison.png').stat().st_size > 1000
    header = compare.table().splitlines()[1]
    assert header.split() == ['label', 'features', 'untrained', 'BarlowTwins', 'DeCUR']
    figure = compare.plot(common_dim=7)
    assert [a.get_title(loc='left') for a in figure.axes][:2] == [
        'BarlowTwins',
        'DeCUR',
    ]
    plt.close(figure)


def test_baseline_is_the_same_as_a_fit_of_its_own(
    compared: tuple[CompareBaseline, Path], tmp_path: Path
) -> None:
    probe = OnlineProbe(every_n_epochs=2)
    trainer(tmp_path, probe).fit(task(BarlowTwins), data())
    own = {
        (r['label'], r['features']): r['score']
        for r in probe.rows
        if r['classifier'] == 'linear' and r['epoch'] == 1
    }
    for row in compared[0].rows:
        assert row['BarlowTwins'] == own[row['label'], row['features']]


def test_does_not_change_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    states = []
    compare = [OnlineProbe(every_n_epochs=2), CompareBaseline('CLIP')]
    for name, callbacks in (('without', []), ('with', compare)):
        model = task()
        trainer(tmp_path / name, *callbacks).fit(model, data())
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    # The baseline writes nothing of its own.
    assert {p.name for p in tmp_path.iterdir()} == {'with', 'without'}


@pytest.mark.parametrize(
    ('callbacks', 'options', 'message'),
    [
        ([CompareBaseline()], {}, r'needs OnlineProbe before it .* got \[\]'),
        (
            [OnlineProbe(), CompareBaseline()],
            {'modalities': {'s1': 2}},
            r"at least two modalities, got \['s1'\]",
        ),
    ],
)
def test_refuses_wrong_options_before_the_fit(
    callbacks: list[Callback], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    kind = BarlowTwins if options else DeCUR
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, *callbacks).fit(task(kind, **options), data())


def test_refuses_an_unknown_baseline() -> None:
    with pytest.raises(ValueError, match='baseline must be one of'):
        CompareBaseline('DINO')  # type: ignore[arg-type]


def test_correlates_samples_that_have_every_modality() -> None:
    model = task().eval()
    batch = {f'image_{m}': torch.rand(6, c, 16, 16) for m, c in (('s1', 2), ('s2', 13))}
    has = torch.tensor([True, True, False, True, True, False])
    batch['image_s1'][~has] = 0
    found = []
    for partly in (False, True):
        pairs, given = compare_baseline._PairCorrelations(), dict(batch)
        if partly:
            given |= {'available_s1': has, 'available_s2': torch.ones(6).bool()}
        else:
            given = {k: v[has] for k, v in given.items()}
        run = Trainer(accelerator='cpu', logger=False, max_epochs=1)
        pairs.on_validation_batch_end(run, model, None, given, 0)
        found.append(pairs.diagonal())
    assert pairs.streams['s1', 's2'].count == 4
    torch.testing.assert_close(*found)


def test_starts_from_the_weights_that_the_objectives_share(tmp_path: Path) -> None:
    compare, model = CompareBaseline('CLIP'), task(FactorCL, critic_dim=8)
    trainer(tmp_path, OnlineProbe(), compare).fit(model, data())
    assert set(compare.rows[0]) >= {'CLIP', 'FactorCL'}
