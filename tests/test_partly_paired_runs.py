"""Fit, resume, test, predict and embed on chips of which 40 % have no radar."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from rasterio.transform import from_origin

from tests.helpers.fake_data import write_bands
from tests.helpers.small_fits import trainer
from torchgeo_decur.callbacks import OnlineProbe
from torchgeo_decur.cli import main
from torchgeo_decur.datamodules import (
    MultimodalDataModule,
    PairedFoldersDataModule,
    RasterPairDataModule,
)
from torchgeo_decur.tasks import DeCUR, LateFusionSegmentation

CHANNELS = {'s1': 2, 's2': 3}
COUNT, BATCH, SIDE = 20, 4, 32
SCALE: dict[str, dict[str, Any]] = {
    's1': {'kind': 'sar', 'unit': 'dB', 'mean': [-12.0, -19.0], 'std': [3.0, 3.0]},
    's2': {'mean': [900.0] * 3, 'std': [200.0] * 3},
}


class Stop(Exception):
    """End a process."""


class StopAt(Callback):
    """Stop before a step."""

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 5:
            raise Stop


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write chips far apart, without every second or third radar file."""
    root = tmp_path_factory.mktemp('chips')
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        values = {
            's1': rng.normal([[[-12]], [[-19]]], 3, (2, SIDE, SIDE)).astype(np.float32),
            's2': rng.normal(900, 200, (3, SIDE, SIDE)).clip(1).astype(np.uint16),
            'mask': rng.integers(0, 3, (1, SIDE, SIDE)).astype(np.uint8),
        }
        place = from_origin(400000 + 900 * number, 5500000, 10, 10)
        for m, bands in values.items():
            if m != 's1' or number % 5 > 1:
                path = root / m / f'{number:02d}.tif'
                write_bands(path, bands, crs='EPSG:32632', transform=place)
    return root


def folders(root: Path) -> dict[str, Any]:
    bands = {m: [f'{m}_{i}' for i in range(c)] for m, c in CHANNELS.items()}
    images = {
        m: {'pattern': f'{m}/{{id}}.tif', 'bands': bands[m], **SCALE[m]}
        for m in CHANNELS
    }
    mask = {'pattern': 'mask/{id}.tif', 'num_classes': 3}
    return {
        'root': str(root),
        'images': images,
        'mask': mask,
        'skip_incomplete': 'keep',
        'paired_fraction': 0.5,
    }


def rasters(root: Path) -> dict[str, Any]:
    bands = {m: [f'{m}_{i}' for i in range(c)] for m, c in CHANNELS.items()}
    return {
        'rasters': {
            m: {'paths': str(root / m), 'bands': bands[m], **SCALE[m]} for m in CHANNELS
        },
        'mask': {'paths': str(root / 'mask'), 'num_classes': 3},
        'footprint': 'union',
        'patch_size': SIDE,
        'length': 12,
    }


CASES: dict[str, Callable[[Path], MultimodalDataModule]] = {
    'folders': lambda root: PairedFoldersDataModule(**folders(root), batch_size=BATCH),
    'rasters': lambda root: RasterPairDataModule(**rasters(root), batch_size=BATCH),
}


@pytest.mark.parametrize('case', list(CASES))
def test_resumes_exactly(case: str, root: Path, tmp_path: Path) -> None:
    def fit(folder: str, *callbacks: Callback, path: Path | None = None) -> Any:
        seed_everything(3, verbose=False)
        model = DeCUR(
            CHANNELS,
            'test_resnet',
            projector=[16, 16],
            size=SIDE,
            optimizer='adamw',
            lr=1e-3,
        )
        keep = ModelCheckpoint(tmp_path / folder, save_last=True, every_n_train_steps=1)
        probes = [OnlineProbe(k=2)] if case == 'folders' else []
        data = CASES[case](root)
        fitted = trainer(
            default_root_dir=tmp_path / folder,
            enable_checkpointing=True,
            max_epochs=2,
            callbacks=[keep, *probes, *callbacks],
        )
        fitted.fit(model, datamodule=data, ckpt_path=path)
        fitted.validate(model, datamodule=data, verbose=False)
        return {k: v.clone() for k, v in model.state_dict().items()}

    expected = fit('whole')
    with pytest.raises(Stop):
        fit('stopped', StopAt())
    resumed = fit('stopped', path=tmp_path / 'stopped' / 'last.ckpt')
    assert not [k for k, v in expected.items() if not torch.equal(v, resumed[k])]


@pytest.mark.parametrize('case', list(CASES))
def test_transfer_runs_on_partly_paired_data(
    case: str, root: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    task = LateFusionSegmentation(
        CHANNELS,
        backbone='test_resnet',
        num_classes=3,
        modality_dropout=0.2,
        test_modality_subsets=True,
    )
    run, data = trainer(default_root_dir=tmp_path), CASES[case](root)
    run.fit(task, datamodule=data)
    run.validate(task, datamodule=data, verbose=False)
    scores = run.test(task, datamodule=data, verbose=False)[0]
    assert all(np.isfinite(value) for value in scores.values())
    maps = run.predict(task, datamodule=data)
    assert maps is not None and len(maps) == COUNT / BATCH


def test_commands_run_on_partly_paired_data(
    root: Path,
    torchgeo: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (Path(__file__).parent / 'conf' / 'decur.yaml').read_text()
    conf = yaml.safe_load(text.replace('OUTPUT', str(tmp_path)))
    conf['trainer'] |= {'callbacks': [], 'max_epochs': 1}
    conf['model']['init_args'] |= {'modalities': CHANNELS, 'warmup_epochs': 0}
    conf['data'] = {
        'class_path': 'torchgeo_decur.datamodules.PairedFoldersDataModule',
        'init_args': {**folders(root), 'batch_size': BATCH},
    }
    conf['data']['init_args'].pop('mask')
    path = tmp_path / 'conf.yaml'
    path.write_text(yaml.safe_dump(conf))
    main(['plan', str(path)])
    printed = capsys.readouterr().out
    assert '16 (' in printed and 'with s1 + s2' in printed
    torchgeo('fit', '--config', path)
    assert 's2 only' in capsys.readouterr().out
    run = tmp_path / 'run'
    for command in ('validate', 'predict'):
        torchgeo(command, '--config', run / 'config.yaml', '--trainer.logger=false')
    out = tmp_path / 'chips.parquet'
    main(['embed', str(run / 'config.yaml'), f'--out={out}', '--device=cpu'])
    table = pq.read_table(out)
    assert table['sample'].to_pylist() == [f'{i:02d}' for i in range(COUNT)]
    assert sum(table['available_s1'].to_pylist()) == COUNT * 3 // 5
    (checkpoint,) = (run / 'checkpoints').glob('*.ckpt')
    report = tmp_path / 'report'
    main(
        [
            *('report', str(checkpoint), f'--out={report}', '--device=cpu'),
            '--analyses=[alignment]',
        ]
    )
    assert 'Samples with each modality' in (report / 'report.html').read_text()
