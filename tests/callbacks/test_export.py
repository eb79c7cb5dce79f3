import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from safetensors import safe_open
from torch.utils.data import DataLoader
from torchgeo.tasks import Classification

from tests.helpers.small_fits import datamodule
from tests.helpers.small_fits import trainer as small
from torchgeo_decur.callbacks import ExportEncoders
from torchgeo_decur.datamodules import SyntheticEODataModule
from torchgeo_decur.models import create_encoder, load_weights
from torchgeo_decur.tasks import DeCUR

FILES = ['s1.pt', 's1.safetensors', 's2.pt', 's2.safetensors']


def task() -> DeCUR:
    return DeCUR({'s1': 2, 's2': 13}, 'test_resnet', projector=[8], size=32)


def trainer(folder: Path, export: ExportEncoders, **options: Any) -> Trainer:
    callbacks = {'limit_val_batches': 0, 'callbacks': [export]}
    return small(**{'default_root_dir': folder, **callbacks, **options})


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file())


def test_writes_both_formats_to_a_new_folder(tmp_path: Path) -> None:
    folder = tmp_path / 'new' / 'folder'
    model = task()
    trainer(tmp_path, ExportEncoders(folder)).fit(model, datamodule=datamodule())
    assert names(tmp_path) == [f'new/folder/{name}' for name in FILES]
    for m, channels in (('s1', 2), ('s2', 13)):
        expected = model.encoders.encoders[m].state_dict()
        for suffix in ('pt', 'safetensors'):
            fresh = create_encoder('test_resnet', channels)
            load_weights(fresh, folder / f'{m}.{suffix}')
            found = fresh.state_dict()
            assert not [k for k, v in expected.items() if not torch.equal(v, found[k])]


@pytest.mark.parametrize('logger', [True, False])
def test_writes_next_to_the_logs_by_default(tmp_path: Path, logger: bool) -> None:
    run = tmp_path / 'logs' if logger else tmp_path
    option = CSVLogger(tmp_path, name=None, version='logs') if logger else False
    trainer(tmp_path, ExportEncoders(), logger=option, log_every_n_steps=1).fit(
        task(), datamodule=datamodule()
    )
    assert sorted(p.name for p in (run / 'encoders').iterdir()) == FILES


def test_writes_metadata_without_a_datamodule(tmp_path: Path) -> None:
    data = datamodule()
    data.setup('fit')
    dataset = [
        {
            k: (v / 10_000).abs().clamp(max=1)
            for k, v in s.items()
            if k.startswith('image')
        }
        for s in data.train_dataset
    ]
    trainer(tmp_path, ExportEncoders(tmp_path), max_epochs=2).fit(
        task(), DataLoader(dataset, 8), DataLoader(dataset, 8)
    )
    with safe_open(tmp_path / 's2.safetensors', 'pt') as file:
        metadata = file.metadata()
    assert metadata['modality'] == 's2' and metadata['task'] == 'DeCUR'
    assert metadata['model'] == 'test_resnet' and 'bands' not in metadata
    plain = {k: json.loads(metadata[k]) for k in ('in_chans', 'limits', 'epochs')}
    assert plain == {'in_chans': 13, 'limits': None, 'epochs': 2}
    assert json.loads(metadata['steps']) == 4
    assert json.loads(metadata['hyper_parameters'])['projector'] == [8]


def test_fast_dev_run_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for export in (ExportEncoders(), ExportEncoders(tmp_path / 'folder')):
        trainer(tmp_path, export, fast_dev_run=True).fit(
            task(), datamodule=datamodule()
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('layout', ['pt', 'safetensors'])
def test_failure_while_writing_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    for name in FILES:
        (tmp_path / name).write_text(f'old {name}')

    def fail(data: Any, path: Path, **kwargs: Any) -> None:
        path.write_text('half')
        raise OSError(28, 'No space left on device')

    if layout == 'pt':
        monkeypatch.setattr(torch, 'save', fail)
    else:
        monkeypatch.setattr(safetensors.torch, 'save_file', fail)
    with pytest.raises(OSError, match='No space left'):
        trainer(tmp_path, ExportEncoders(tmp_path)).fit(task(), datamodule=datamodule())
    assert names(tmp_path) == FILES
    assert all((tmp_path / name).read_text() == f'old {name}' for name in FILES)


def test_fit_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='batch_size must be'):
        trainer(tmp_path, ExportEncoders(tmp_path / 'folder')).fit(
            task(), datamodule=SyntheticEODataModule(length=1, batch_size=2)
        )
    assert list(tmp_path.iterdir()) == []


def test_validation_exports_nothing(tmp_path: Path) -> None:
    fit = trainer(tmp_path, ExportEncoders(), limit_val_batches=1)
    fit.validate(task(), datamodule(), verbose=False)
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_task_without_encoders(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r'needs a task with one encoder .*DeCUR, got Classification'
    ):
        trainer(tmp_path, ExportEncoders()).fit(
            Classification('test_resnet', num_classes=2), datamodule=datamodule()
        )
