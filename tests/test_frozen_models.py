"""Learn common and unique heads on embeddings of frozen models."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from tests.helpers.small_fits import trainer
from torchgeo_decur.callbacks import ExportEncoders
from torchgeo_decur.cli import main
from torchgeo_decur.datamodules import PairedEmbeddingsDataModule
from torchgeo_decur.modalities import MODALITIES
from torchgeo_decur.models import create_encoder, save_encoder
from torchgeo_decur.tasks import (
    CLIP,
    BarlowTwins,
    CrossModalSimCLR,
    DeCUR,
    LateFusionClassification,
    VICReg,
)
from torchgeo_decur.tasks.pretraining import MultimodalPretraining
from torchgeo_decur.transforms import EmbeddingAugmentation

WIDTHS = {'croma': 8, 'dofa': 6}
ENTRIES = {m: {'path': f'{m}.parquet'} for m in WIDTHS}


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write embeddings of two models that share three of their directions."""
    folder = tmp_path_factory.mktemp('embeddings')
    rng = np.random.default_rng(0)
    common = rng.normal(size=(400, 3))
    for m, width in WIDTHS.items():
        own = rng.normal(size=(400, width - 4))
        rotation, _ = np.linalg.qr(rng.normal(size=(width - 1, width - 1)))
        mixed = np.hstack([common, own]) @ rotation
        # Networks have features that are always 0, and features of other scales.
        x = np.hstack([100 + 30 * mixed, np.zeros((400, 1))])
        table = {
            'sample': [f'place {i}' for i in range(400)],
            'embedding': list(x.astype(np.float32)),
            'label_common': (common[:, 0] > 0).astype(int),
            f'label_{m}': (own[:, 0] > 0).astype(int),
        }
        pd.DataFrame(table).to_parquet(folder / f'{m}.parquet')
    return folder


def datamodule(root: Path, **options: Any) -> PairedEmbeddingsDataModule:
    options = {'batch_size': 64, 'num_workers': 0, **options}
    return PairedEmbeddingsDataModule(str(root), ENTRIES, **options)


def test_training_samples_standardize_the_batches(root: Path) -> None:
    data = datamodule(root, test_fraction=0.2)
    data.setup('fit')
    groups = [
        set(getattr(data, f'{n}_dataset').samples) for n in ('train', 'val', 'test')
    ]
    assert [*map(len, groups)] == [240, 80, 80] and len(set.union(*groups)) == 400
    x = data.train_dataset.vectors('croma')
    samples = [data.train_dataset[i] for i in range(8)]
    batch = data.aug(
        {k: torch.stack([s[k] for s in samples]) for k in ('image_croma',)}
    )
    assert batch['image_croma'].min() >= 0 and batch['image_croma'].max() <= 1
    task = DeCUR(WIDTHS, 'identity', projector=[4])
    features = task({'croma': batch['image_croma']})['croma']
    expected = (x - x.mean(0)) / x.std(0, correction=0).clamp(min=1e-6)
    torch.testing.assert_close(features, expected[:8].clamp(-4, 4), atol=1e-4, rtol=0)
    # The last number is constant.
    assert features.shape == (8, 8) and not features[:, -1].any()


@pytest.mark.parametrize('task', [DeCUR, BarlowTwins, VICReg, CrossModalSimCLR, CLIP])
def test_every_objective_trains_heads(
    root: Path, task: type[MultimodalPretraining]
) -> None:
    torch.manual_seed(0)
    model = task(WIDTHS, 'identity', projector=[16, 16], lr=1e-2)
    assert all(
        isinstance(a, EmbeddingAugmentation) for a in model.augmentations.values()
    )
    before = [p.clone() for p in model.parameters()]
    fit = trainer(max_epochs=4)
    fit.fit(model, datamodule(root, seed=0))
    assert all(
        not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)
    )
    found = fit.callback_metrics
    names = [k for k in found if k.startswith('alignment_') and 'unique' not in k]
    assert found[names[0]] > 0.15 and found['std_croma'] > 0.5
    assert not model.collapsed


@pytest.fixture(scope='module')
def run(
    root: Path, torchgeo: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Fit heads on the command line and return the output folder."""
    folder = tmp_path_factory.mktemp('run')
    conf = {
        'seed_everything': 0,
        'trainer': {
            'accelerator': 'cpu',
            'devices': 1,
            'max_epochs': 30,
            'enable_progress_bar': False,
            'enable_model_summary': False,
            'num_sanity_val_steps': 0,
            'default_root_dir': str(folder),
            'logger': False,
        },
        'model': {
            'class_path': 'torchgeo_decur.tasks.DeCUR',
            'init_args': {
                'modalities': dict(WIDTHS),
                'model': 'identity',
                'projector': [16],
                'common_ratio': 0.1875,
                'lr': 1e-2,
            },
        },
        'data': {
            'class_path': 'torchgeo_decur.datamodules.PairedEmbeddingsDataModule',
            'init_args': {
                'root': str(root),
                'embeddings': ENTRIES,
                'val_fraction': 0.4,
                'batch_size': 60,
                'seed': 0,
            },
        },
    }
    config = folder / 'config.yaml'
    config.write_text(yaml.safe_dump(conf))
    torchgeo('fit', '--config', config)
    return folder


def test_heads_separate_shared_from_unique_information(
    run: Path, tmp_path: Path
) -> None:
    config = str(run / 'config.yaml')
    out = tmp_path / 'probes.csv'
    main(['probe', config, '--score=val', f'--out={out}', '--device=cpu'])
    with out.open() as file:
        rows = list(csv.DictReader(file))
    score = {(r['label'], r['name'], r['part']): float(r['score']) for r in rows}
    for m in WIDTHS:
        assert score['label_common', m, 'common'] > 65
        assert score[f'label_{m}', m, 'unique'] > 90
        assert score[f'label_{m}', m, 'common'] < score[f'label_{m}', m, 'unique'] - 10
    main(['shared', config, f'--out={tmp_path / "shared"}', '--device=cpu'])
    with (tmp_path / 'shared' / 'shared.csv').open() as file:
        (row,) = csv.DictReader(file)
    assert (row['shared'], row['of'], row['samples']) == ('3', '5', '160')


def test_parts_are_written_with_keys_and_labels(
    run: Path, root: Path, tmp_path: Path
) -> None:
    out = tmp_path / 'heads.parquet'
    main(['embed', str(run / 'config.yaml'), f'--out={out}', '--device=cpu'])
    table = pq.read_table(out).to_pandas()
    assert table['sample'].tolist() == [f'place {i}' for i in range(400)]
    own = pd.read_parquet(root / 'croma.parquet')
    assert table['label_croma'].tolist() == own['label_croma'].tolist()
    assert len(table['common_croma'][0]) == 3 and len(table['unique_dofa'][0]) == 13
    # The file is again a pair of modalities, by the part or by the column.
    entries = {
        'croma': {'path': str(out)},
        'other': {'path': str(out), 'part': 'dofa'},
        'common': {'path': str(out), 'column': 'common_dofa'},
    }
    data = PairedEmbeddingsDataModule('', entries)
    data.setup('fit')
    assert {m: r.channels for m, r in data.modalities.items()} == {
        'croma': 8,
        'other': 6,
        'common': 3,
    }
    wrong = {'other': {'path': str(out)}}
    with pytest.raises(
        ValueError, match=r"part must be one of the modalities \['croma', 'dofa'\]"
    ):
        PairedEmbeddingsDataModule('', wrong).setup('fit')


def test_report_doctor_and_plan_accept_embeddings(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    config = str(run / 'config.yaml')
    out = tmp_path / 'report'
    (checkpoint,) = (run / 'checkpoints').glob('*.ckpt')
    names = ['alignment', 'shared', 'spatial_saliency', 'feature_maps']
    options = [f'--config={config}', f'--out={out}', '--device=cpu']
    main(['report', str(checkpoint), *options, f'--analyses={names}'])
    for name in names[:2]:
        result = json.loads((out / name / 'result.json').read_text())
        assert 'Not computed' not in result['text'], result['text']
    for name in names[2:]:
        result = json.loads((out / name / 'result.json').read_text())
        assert 'requires images, but' in result['text']
    main(['plan', config])
    assert 'steps per epoch: 4' in capsys.readouterr().out
    main(['doctor', config, f'--out={tmp_path / "doctor.html"}'])
    assert 'no findings' in capsys.readouterr().out.lower()


def test_statistics_come_from_the_checkpoint(run: Path, root: Path) -> None:
    checkpoint = torch.load(next(run.rglob('*.ckpt')), weights_only=True)
    stored = checkpoint['PairedEmbeddingsDataModule']
    data = datamodule(root, seed=3)
    data.load_state_dict(stored)
    data.setup('test')
    assert (
        list(data.modalities['dofa'].mean or ()) == stored['statistics']['dofa']['mean']
    )


def test_partly_paired_embeddings_train(root: Path, tmp_path: Path) -> None:
    for m in WIDTHS:
        table = pd.read_parquet(root / f'{m}.parquet')
        table.drop(index=range(80 if m == 'dofa' else 0)).to_parquet(
            tmp_path / f'{m}.parquet'
        )
    model = DeCUR(WIDTHS, 'identity', projector=[16, 16])
    data = datamodule(tmp_path, skip_incomplete='keep', paired_fraction=0.5, seed=0)
    fit = trainer()
    fit.fit(model, data)
    assert 0 < fit.callback_metrics['train_pairs_croma_dofa'] < 64


def test_classifier_runs_on_embeddings_of_two_models(
    root: Path, tmp_path: Path
) -> None:
    for m in WIDTHS:
        table = pd.read_parquet(root / f'{m}.parquet')
        table.rename(columns={'label_common': 'label'}).to_parquet(
            tmp_path / f'{m}.parquet'
        )
    torch.manual_seed(0)
    task = LateFusionClassification(WIDTHS, 'identity', num_classes=2, lr=0.05)
    fit = trainer(max_epochs=10)
    data = datamodule(tmp_path, seed=0)
    fit.fit(task, data)
    (result,) = fit.validate(task, data, verbose=False)
    assert max(v for k, v in result.items() if 'Accuracy' in k) > 0.9


def test_error_states_the_width_of_the_data(root: Path) -> None:
    task = DeCUR({'croma': 8, 'dofa': 7}, 'identity', projector=[4])
    with pytest.raises(ValueError, match='dofa: expected 7 channels, found 6; correct'):
        trainer().fit(task, datamodule(root))


def test_export_rejects_encoders_without_parameters(root: Path, tmp_path: Path) -> None:
    fit = trainer(callbacks=[ExportEncoders(tmp_path)])
    with pytest.raises(ValueError, match='requires encoders with parameters'):
        fit.fit(DeCUR(WIDTHS, 'identity', projector=[4]), datamodule(root))


def test_experiment_configs_run(
    torchgeo: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(__file__).parents[1] / 'experiments' / 'frozen'
    monkeypatch.chdir(tmp_path)
    for m, name in (('s1', 'sentinel1_grd'), ('s2', 'sentinel2_l1c')):
        record = MODALITIES[name]
        encoder = create_encoder('test_resnet', record.channels)
        metadata = {'modality': m, 'in_chans': record.channels, **record.to_dict()}
        path = Path('outputs/quickstart/version_0/encoders', m)
        save_encoder(encoder, path, 'test_resnet', metadata, ['safetensors'])
    conf = yaml.safe_load((folder / 'scenes.yaml').read_text())
    conf['data']['init_args']['val_length'] = 24
    Path('scenes.yaml').write_text(yaml.safe_dump(conf))
    main(['embed', 'scenes.yaml', '--out=data/scenes.parquet', '--device=cpu'])
    small = ['--trainer.max_epochs=1', '--data.batch_size=8', '--model.warmup_epochs=0']
    torchgeo('fit', '--config', folder / 'heads.yaml', *small)
    metrics = pd.read_csv('outputs/frozen_heads/version_0/metrics.csv')
    assert np.isfinite(metrics['val_loss'].dropna()).all() and 'std_radar' in metrics


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'noise': -1.0}, 'noise must not'),
        ({'dropout': 1.0}, r'dropout must be in \[0, 1\)'),
    ],
)
def test_augmentation_rejects_invalid_options(
    options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        EmbeddingAugmentation(**options)
