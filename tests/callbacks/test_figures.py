import csv
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from tests.helpers.small_fits import trainer as small
from torchgeo_decur.callbacks import LogFigures
from torchgeo_decur.datamodules import SyntheticEODataModule
from torchgeo_decur.tasks import COrAL, DeCUR

CHANNELS = {'s1': 2, 's2': 13}


def data() -> SyntheticEODataModule:
    return SyntheticEODataModule(
        length=8, val_length=8, size=32, batch_size=4, num_workers=0
    )


def decur() -> DeCUR:
    return DeCUR(CHANNELS, 'test_resnet', projector=[16], size=32)


def trainer(folder: Path, *callbacks: Any, tensorboard: bool = True) -> Trainer:
    loggers: list[Any] = [CSVLogger(folder, 'csv', 'x')]
    if tensorboard:
        loggers.append(TensorBoardLogger(folder, 'tb', 'x'))
    return Trainer(
        accelerator='cpu',
        max_epochs=3,
        logger=loggers,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fit(folder: Path, task: DeCUR, *callbacks: Any) -> dict[str, torch.Tensor]:
    seed_everything(0)
    task.load_state_dict(START.state_dict())
    trainer(folder, *callbacks).fit(task, data())
    return task.state_dict()


START = decur()


@pytest.fixture(scope='module')
def with_figures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp('figures')
    return folder, fit(folder, decur(), LogFigures(every_n_epochs=2, examples=2))


def images(folder: Path) -> dict[str, list[Any]]:
    events = EventAccumulator(str(folder / 'tb' / 'x'), size_guidance={'images': 0})
    events.Reload()
    return {tag: events.Images(tag) for tag in events.Tags()['images']}


def test_figures_are_in_the_event_file(with_figures: tuple[Path, Any]) -> None:
    found = images(with_figures[0])
    assert set(found) == {'alignment', 'saliency'}
    for tag in found:
        # After the second of three epochs of two steps, and after the last.
        assert [event.step for event in found[tag]] == [4, 6]
        assert all(e.encoded_image_string.startswith(b'\x89PNG') for e in found[tag])
        assert min(found[tag][0].width, found[tag][0].height) > 100
    assert not plt.get_fignums()


def test_does_not_change_training(
    with_figures: tuple[Path, Any], tmp_path: Path
) -> None:
    expected = fit(tmp_path, decur())
    for name, value in with_figures[1].items():
        assert torch.equal(value, expected[name]), name

    def metrics(folder: Path) -> list[dict[str, str]]:
        with (folder / 'csv' / 'x' / 'metrics.csv').open() as file:
            return list(csv.DictReader(file))

    assert metrics(with_figures[0]) == metrics(tmp_path)


def test_uses_at_most_max_samples(tmp_path: Path) -> None:
    callback = LogFigures(every_n_epochs=1, max_samples=6, examples=1)
    seen: list[list[int]] = []
    draw = callback.on_validation_epoch_end

    def look(*args: Any) -> None:
        seen.append([len(z['s1']) for z in callback._z])
        seen.append([len(x['s1']) for x in callback._images])
        draw(*args)

    callback.on_validation_epoch_end = look  # type: ignore[method-assign]
    run = trainer(tmp_path, callback)
    run.fit_loop.max_epochs = 1
    run.fit(decur(), data())
    # The sanity check draws nothing.
    assert seen == [[], [], [4, 2], [1]]


def test_a_task_without_maps_logs_only_the_alignment(tmp_path: Path) -> None:
    task = COrAL(
        CHANNELS,
        model='test_resnet',
        embed_dim=16,
        num_heads=2,
        projector=[16],
        size=32,
    )
    run = trainer(tmp_path, LogFigures())
    run.fit_loop.max_epochs = 1
    run.fit(task, data())
    assert set(images(tmp_path)) == {'alignment'}


class TestErrors:
    def test_rejects_invalid_arguments(self) -> None:
        for name in ('every_n_epochs', 'max_samples', 'examples'):
            with pytest.raises(ValueError, match=f'{name} must be positive, got 0'):
                LogFigures(**{name: 0})

    def test_no_logger_takes_figures(self, tmp_path: Path) -> None:
        run = trainer(tmp_path, LogFigures(), tensorboard=False)
        with pytest.raises(ValueError, match=r"add_figure, .*, got \['CSVLogger'\]"):
            run.fit(decur(), data())

    def test_refuses_a_task_without_encoders(self, tmp_path: Path) -> None:
        run = trainer(tmp_path, LogFigures())
        with pytest.raises(ValueError, match=r'such as .*DeCUR, got LightningModule'):
            LogFigures().setup(run, LightningModule(), 'fit')

    def test_refuses_a_datamodule_without_modalities(self, tmp_path: Path) -> None:
        run = trainer(tmp_path, LogFigures())
        loader: DataLoader[Any] = DataLoader([0])  # type: ignore[arg-type]
        with pytest.raises(
            ValueError, match=r'a datamodule with modalities, .* NoneType'
        ):
            run.fit(decur(), loader, loader)

    def test_captum_is_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, 'captum', None)
        with pytest.raises(
            ImportError, match=r'pip install torchgeo-decur\[analysis\]'
        ):
            trainer(tmp_path, LogFigures()).fit(decur(), data())


def test_last_epoch_under_max_steps_is_due() -> None:
    due: list[bool] = []

    class Ask(Callback):
        def on_validation_epoch_end(self, trainer: Trainer, _: LightningModule) -> None:
            due.append(LogFigures(every_n_epochs=9)._due(trainer))

    small(max_epochs=-1, max_steps=4, callbacks=[Ask()]).fit(decur(), data())
    assert due == [False, True]
