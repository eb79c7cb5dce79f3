"""Iterate over batches of a split without a trainer, and probe them."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from torchgeo_decur.cli import main
from torchgeo_decur.cli.embed import Batches, load_run
from torchgeo_decur.datamodules import SyntheticEODataModule
from torchgeo_decur.tasks import LateFusionClassification


def made() -> SyntheticEODataModule:
    return SyntheticEODataModule(length=8, val_length=5, batch_size=4, size=16)


@pytest.mark.parametrize(('split', 'number'), [('train', 8), ('test', 5)])
def test_reads_a_whole_split_in_order_and_scaled(split: str, number: int) -> None:
    datamodule = made()
    batches = list(Batches(datamodule, split, 'cpu'))  # type: ignore[arg-type]
    assert [len(b['label_s1']) for b in batches] == [4, number - 4]
    dataset = getattr(datamodule, f'{split}_dataset')
    expected = torch.stack([dataset[i]['image_s1'] for i in range(number)])
    found = torch.cat([b['image_s1'] for b in batches])
    torch.testing.assert_close(
        found, datamodule.aug({'image_s1': expected})['image_s1']
    )
    assert found.min() >= 0 and found.max() <= 1


def test_refuses_an_unknown_split() -> None:
    with pytest.raises(ValueError, match=r"split must be one of \['train', .* got 'x'"):
        Batches(made(), 'x')  # type: ignore[arg-type]


def test_probe_command_writes_a_table(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'probes.csv'
    labels = '--labels=["label_common"]'
    main(['probe', str(fitted / 'config.yaml'), f'--out={out}', labels])
    with out.open() as file:
        rows = list(csv.DictReader(file))
    names = {(row['name'], row['part']) for row in rows}
    assert {('s1', 'common'), ('s2', 'unique'), ('together', 'features')} <= names
    assert all(float(r['low']) <= float(r['high']) for r in rows)
    said = capsys.readouterr().out
    assert said.count('label_common') == len(rows) and str(out) in said
    assert [path.name for path in tmp_path.iterdir()] == ['probes.csv']


def test_reads_data_from_another_file(fitted: Path, tmp_path: Path) -> None:
    data = tmp_path / 'data.yaml'
    data.write_text(
        'data:\n  class_path: torchgeo_decur.datamodules.SyntheticEODataModule\n'
        '  init_args: {length: 3, size: 32}\n'
    )
    task, datamodule, _ = load_run(fitted / 'config.yaml', data=data)
    assert datamodule.length == 3 and type(task).__name__ == 'DeCUR'
    with pytest.raises(FileNotFoundError, match=r'config .*none.yaml does not exist'):
        load_run(fitted / 'config.yaml', data=tmp_path / 'none.yaml')
    data.write_text('model: {}\n')
    with pytest.raises(ValueError, match='a torchgeo config with data'):
        load_run(fitted / 'config.yaml', data=data)


def test_probe_needs_a_pretraining(tmp_path: Path) -> None:
    config = tmp_path / 'config.yaml'
    config.write_text(
        'model:\n  class_path: torchgeo_decur.tasks.LateFusionClassification\n'
        '  init_args: {modalities: {s1: 2}, model: test_resnet, num_classes: 8}\n'
        'data:\n  class_path: torchgeo_decur.datamodules.SyntheticEODataModule\n'
    )
    task = LateFusionClassification({'s1': 2}, 'test_resnet', num_classes=8)
    trainer = Trainer(accelerator='cpu', logger=False, enable_checkpointing=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / 'x.ckpt')
    with pytest.raises(SystemExit, match='found LateFusionClassification'):
        main(['probe', str(config), f'--ckpt_path={tmp_path / "x.ckpt"}'])
