"""Compare the estimates of `plan` with counts by hand."""

from pathlib import Path

import pytest

from torchgeo_decur.cli import main
from torchgeo_decur.cli.cost_estimate import estimate_cost

CONFIG = """
trainer: {{max_epochs: 3, devices: {devices}}}
model:
  class_path: torchgeo_decur.tasks.DeCUR
  init_args:
    modalities: {{s1: 2, s2: 13}}
    model: test_resnet
    projector: [64, 32]
    size: 32
    optimizer: adamw
data:
  class_path: torchgeo_decur.datamodules.SyntheticEODataModule
  init_args: {{length: 40, val_length: 8, batch_size: 8, size: 32}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / 'config.yaml'
    path.write_text(CONFIG.format(devices=1))
    return path


def test_counts_the_steps_of_one_device(config: Path) -> None:
    found = estimate_cost([config])
    assert found['steps per epoch'] == '5'
    assert found['steps'] == '15 in 3 epochs'
    assert found['embeddings sent'].startswith('0.0 MiB')
    assert 'hours' not in found


def test_overlay_sets_several_devices(config: Path, tmp_path: Path) -> None:
    overlay = tmp_path / 'two.yaml'
    overlay.write_text('trainer: {devices: 2, num_nodes: 2}\n')
    found = estimate_cost([config, overlay], samples=6400, rate=4.0)
    assert found['devices'] == '4 (2 nodes x 2)'
    assert found['batch'] == '8 per device, 32 in the loss'
    assert found['steps per epoch'] == '200'
    # 2 views x 2 modalities x 32 x 32 x 4 bytes, three quarters of it thrice.
    assert found['embeddings sent'].startswith(f'{3 * 0.75 * 16384 / 2**20:.1f} MiB')
    assert found['hours'].startswith(f'{600 * 8 / 4 / 3600:.1f} ')


@pytest.mark.parametrize(
    ('devices', 'number'),
    [('"2"', 2), ('[0, 1, 2]', 3), ('"0,3"', 2), ('auto, accelerator: cpu', 1)],
)
def test_counts_devices_as_lightning(config: Path, devices: str, number: int) -> None:
    config.write_text(CONFIG.format(devices=devices))
    assert estimate_cost([config])['devices'] == f'{number} (1 node x {number})'


@pytest.mark.parametrize('devices', ['auto', '-1'])
def test_counts_all_gpus_of_the_machine(
    config: Path, devices: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('torch.cuda.device_count', lambda: 4)
    config.write_text(CONFIG.format(devices=devices))
    assert estimate_cost([config])['devices'] == '4 (1 node x 4)'


@pytest.mark.parametrize(
    ('trainer', 'an_epoch', 'steps', 'samples'),
    [
        ('max_steps: 8', '5', '8 in 1.6 epochs', 64),
        ('max_steps: 50', '5', '15 in 3 epochs', 120),
        ('max_epochs: -1, max_steps: 50', '5', '50 in 10 epochs', 400),
        ('limit_train_batches: 3', '3', '9 in 3 epochs', 72),
        ('limit_train_batches: 0.5', '2', '6 in 3 epochs', 48),
        ('limit_train_batches: null', '5', '15 in 3 epochs', 120),
        ('accumulate_grad_batches: 2', '3', '9 in 3 epochs', 144),
    ],
)
def test_steps_follow_what_ends_a_fit(
    config: Path, tmp_path: Path, trainer: str, an_epoch: str, steps: str, samples: int
) -> None:
    overlay = tmp_path / 'ends.yaml'
    overlay.write_text(f'trainer: {{{trainer}}}\n')
    found = estimate_cost([config, overlay], rate=1 / 3600)
    assert (found['steps per epoch'], found['steps']) == (an_epoch, steps)
    assert found['hours'].startswith(f'{samples:.1f} ')


@pytest.mark.parametrize(
    ('trainer', 'message'),
    [
        ('max_epochs: -1', r'must limit max_epochs or max_steps, got no limit'),
        ('limit_train_batches: 0', r'an epoch must have at least one batch, got none'),
    ],
)
def test_refuses_a_fit_without_steps_or_end(
    config: Path, tmp_path: Path, trainer: str, message: str
) -> None:
    overlay = tmp_path / 'ends.yaml'
    overlay.write_text(f'trainer: {{{trainer}}}\n')
    with pytest.raises(ValueError, match=message):
        estimate_cost([config, overlay])


def test_micro_batches_need_less_memory(config: Path, tmp_path: Path) -> None:
    overlay = tmp_path / 'chunks.yaml'
    overlay.write_text('model: {init_args: {micro_batch_size: 2}}\n')
    whole, chunks = (
        float(found['memory per device'].partition('activations ')[2].split()[0])
        for found in (estimate_cost([config]), estimate_cost([config, overlay]))
    )
    assert chunks == pytest.approx(whole / 8, abs=0.1)


def test_command_prints_the_estimates(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(['plan', str(config), '--samples', '80', '--data.batch_size', '4'])
    assert 'steps per epoch: 20\n' in capsys.readouterr().out


def test_rejects_invalid_arguments(config: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'config .* does not exist'):
        estimate_cost([tmp_path / 'nothing.yaml'])
    for options, message in (
        ({'rate': 0.0}, 'rate must be positive, got 0'),
        ({'rate': -5.0}, 'rate must be positive, got -5'),
        ({'rate': float('nan')}, 'rate must be positive, got nan'),
        ({'samples': -1}, 'samples must be positive, got -1'),
    ):
        with pytest.raises(ValueError, match=message):
            estimate_cost([config], **options)
    config.write_text(CONFIG.format(devices='1, num_nodes: 0'))
    with pytest.raises(ValueError, match=r'num_nodes must be positive .*, got 1 and 0'):
        estimate_cost([config])
    config.write_text('trainer: {devices: 1}\n')
    with pytest.raises(
        ValueError, match=r'expected a torchgeo config with model and data'
    ):
        estimate_cost([config])
