"""Check what a command prints in a terminal of 80 columns."""

import csv
import logging
import math
import os
import re
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from tqdm import tqdm

from tests.helpers.screen import render_screen
from tests.helpers.small_fits import MODALITIES, datamodule
from torchgeo_decur.tasks import BarlowTwins
from torchgeo_decur.tasks.progress_bar import CompactProgressBar, use_compact_bar
from torchgeo_decur.terminal import COLUMNS, hide_noise, is_command, text_table

ROOT = Path(__file__).parents[1]
_PATHS = ('.png', '.safetensors')
CLOCK = r'\[\d\d:\d\d<\d\d:\d\d'
NUMBER = r'-?[\d.]+(e[+-]\d\d)?'
BAR = rf'Epoch 0: \|█+\| 1/1 {CLOCK}, loss={NUMBER}, lr={NUMBER}, align=-?\d\.\d\d\]'


def in_terminal(folder: Path, *command: str) -> str:
    """Return all that a command writes to a terminal of 80 columns."""
    fcntl, pty, termios = (
        pytest.importorskip(name) for name in ('fcntl', 'pty', 'termios')
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('4H', 24, COLUMNS, 0, 0))
    env = {**os.environ, 'COLUMNS': str(COLUMNS), 'PYTHONPATH': str(ROOT)}
    env['CUDA_VISIBLE_DEVICES'] = ''
    env.pop('JSONARGPARSE_DEPRECATION_WARNINGS')
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=env
    )
    os.close(theirs)
    written = b''
    try:
        while part := os.read(ours, 4096):
            written += part
    except OSError:
        pass  # Linux reports the end of a terminal as an error.
    finally:
        os.close(ours)
    assert process.wait(60) == 0, written.decode()
    return written.decode()


@pytest.fixture(scope='module')
def screen(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the lines of a small quickstart, and check its files."""
    folder = tmp_path_factory.mktemp('terminal')
    config = ROOT / 'experiments' / 'quickstart.yaml'
    small = (
        *('--trainer.max_epochs=1', '--trainer.log_every_n_steps=1'),
        *('--model.projector=[16, 16]', '--model.augmentations=null'),
        *('--model.size=32', '--data.size=32', '--data.num_workers=0'),
        *('--data.length=16', '--data.val_length=48', '--data.batch_size=16'),
    )
    command = (sys.executable, '-m', 'torchgeo', 'fit', f'--config={config}')
    written = in_terminal(folder, *command, *small)
    run = folder / 'outputs' / 'quickstart' / 'version_0'
    exported = {path.name for path in (run / 'encoders').iterdir()}
    assert exported == {f'{m}.{s}' for m in MODALITIES for s in ('pt', 'safetensors')}
    with (run / 'metrics.csv').open() as file:
        losses = [float(x['train_loss'] or 'nan') for x in csv.DictReader(file)]
    assert sum(map(math.isfinite, losses)) == 1
    return render_screen(written)


def test_fit_prints_only_lines_that_help(screen: list[str]) -> None:
    kinds = [
        r'Seed set to 1',
        r'GPU available: \w+( \(\w+\))?, used: False',
        r'Probe of frozen features after epoch 1, in %: trained \(untrained\)',
        r'label +features +5-NN +linear',
        r'label_\w+ +s\d(\+s2)? +[\d.]+ \([\d.]+\) +[\d.]+ \([\d.]+\)',
        r'`Trainer.fit` stopped: `max_epochs=1` reached.',
        BAR,
        r'(probe|comparison|s\d encoder): \S+, \S+',
        r'pretraining the baseline BarlowTwins on the same data',
        r'Linear probe of frozen features, in %',
        r'label +features +untrained +BarlowTwins +DeCUR',
        r'label_\w+ +s\d(\+s2)? +[\d.]+ +[\d.]+ +[\d.]+',
    ]
    strange = [x for x in screen if not any(re.fullmatch(k, x) for k in kinds)]
    assert strange == []
    assert all(len(x) <= COLUMNS for x in screen if not x.endswith(_PATHS))
    unused = [k for k in kinds if not any(re.fullmatch(k, x) for x in screen)]
    assert unused == []
    # A second trainer, of the baseline, uses the same device.
    assert sum(line.startswith('GPU available') for line in screen) == 1


def test_tables_have_their_own_lines(screen: list[str]) -> None:
    start = next(i for i, x in enumerate(screen) if x.startswith('Probe of frozen'))
    table = screen[start + 1 : start + 11]
    assert len({len(line) for line in table}) == 1 and len(table[0]) <= COLUMNS
    assert sum(re.fullmatch(BAR, line) is not None for line in screen) == 2


def test_values_are_legible_in_80_columns() -> None:
    values = 'loss=123.4, lr=0.00012, align=0.71'
    line = tqdm.format_meter(
        n=1234,
        total=9999,
        elapsed=754,
        ncols=COLUMNS,
        prefix='Epoch 12: ',
        bar_format=CompactProgressBar().BAR_FORMAT,
        postfix=values,
    )
    assert len(line) <= COLUMNS and line.endswith(f'{values}]')


@pytest.mark.parametrize(
    ('path', 'expected'),
    [
        ('/usr/bin/torchgeo', True),
        ('torchgeo-decur.exe', True),
        ('/lib/torchgeo/__main__.py', True),
        ('/lib/torchgeo_decur/__main__.py', True),
        ('/lib/pytest/__main__.py', False),
        ('train.py', False),
        ('', False),
    ],
)
def test_only_the_commands_are_quiet(path: str, expected: bool) -> None:
    assert is_command(path) == expected


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.getLogger('lightning.pytorch.utilities.rank_zero')
    before = list(found.filters)
    yield found
    found.filters[:] = before


def test_keeps_what_a_user_can_act_on(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    workers = (
        "The 'train_dataloader' does not have many workers which may be a bottleneck. "
        'Consider increasing the value of the `num_workers` argument` to `num_workers={}`'
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        hide_noise()
        warnings.warn('`isinstance(treespec, LeafSpec)` is deprecated', stacklevel=1)
        for number in (2, 15):
            warnings.warn(workers.format(number), stacklevel=1)
        warnings.warn('lr is high', stacklevel=1)
    assert [str(w.message)[-20:] for w in caught] == [
        workers.format(15)[-20:],
        'lr is high',
    ]
    with caplog.at_level(logging.INFO), pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger('lightning.pytorch'), 'propagate', True)
        for line in (
            'GPU available: True (cuda), used: True',
            'TPU available: False, using: 0 TPU cores',
            '💡 Tip: For seamless cloud logging, try installing another package',
            'GPU available: True (cuda), used: True',
            'TPU available: True, using: 8 TPU cores',
        ):
            logger.info(line)
    assert caplog.messages == [
        'GPU available: True (cuda), used: True',
        'TPU available: True, using: 8 TPU cores',
    ]


def test_bar_waits_for_no_device(tmp_path: Path) -> None:
    """Check that the values of the bar are on the CPU, except at the end of an epoch."""
    task = BarlowTwins(MODALITIES, 'test_resnet', projector=[8, 8], size=16)
    steps: list[dict[str, torch.Tensor]] = []
    log_dict = task.log_dict

    def record(values: dict[str, torch.Tensor], **options: object) -> None:
        if options.get('prog_bar') and options.get('on_step', True):
            steps.append(values)
        log_dict(values, **options)  # type: ignore[arg-type]

    task.log_dict = record  # type: ignore[assignment, method-assign]
    fit = Trainer(
        accelerator='cpu',
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=TQDMProgressBar(refresh_rate=2),
        num_sanity_val_steps=0,
    )
    fit.fit(task, datamodule())
    assert [set(values) for values in steps] == [{'train_loss', 'lr'}] * 2
    assert all(
        isinstance(x, torch.Tensor) and x.device.type == 'cpu'
        for values in steps
        for x in values.values()
    )
    bar = fit.progress_bar_callback
    assert isinstance(bar, CompactProgressBar) and bar.refresh_rate == 2
    assert list(bar.get_metrics(fit, task)) == ['loss', 'lr', 'align']
    assert list(fit.progress_bar_metrics) == ['train_loss', 'lr', 'alignment']


def test_other_bars_are_kept() -> None:
    fit = Trainer(accelerator='cpu', logger=False, enable_progress_bar=False)
    use_compact_bar(fit)
    assert fit.progress_bar_callback is None


@pytest.mark.parametrize('columns', [1, 2, 5])
def test_table_fits_the_terminal(columns: int) -> None:
    head = ['label', *(f'MulticlassAveragePrecision{i}' for i in range(columns))]
    rows = [['label_of_a_rather_long_name' * 3, *['100.0 (99.9)'] * columns]] * 2
    lines = text_table(head, rows).splitlines()
    assert {len(line) for line in lines} == {COLUMNS}
    assert lines[1].startswith('lab') and lines[1].count('100.0 (99.9)') == columns
    assert '..' in lines[1]


def test_table_keeps_numbers_if_there_is_no_room() -> None:
    (_, line) = text_table(['x'] * 12, [['123456789'] * 12], texts=0).splitlines()
    assert line.split() == ['123456789'] * 12
