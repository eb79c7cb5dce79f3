"""Run a few steps of the files and tables of experiments/trifeature."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from torchgeo_decur.cli import main

FOLDER = Path(__file__).parents[1] / 'experiments'
SHORT = (
    '--trainer.accelerator=cpu',
    '--trainer.max_epochs=1',
    '--trainer.enable_progress_bar=false',
    '--trainer.log_every_n_steps=1',
    '--data.init_args.num_workers=0',
    '--data.init_args.batch_size=8',
    '--data.init_args.length=16',
)


def test_tables_have_the_same_cells() -> None:
    small, rivals, paper = (
        yaml.safe_load((FOLDER / 'tables' / f'{name}.yaml').read_text())
        for name in ('trifeature', 'trifeature_rivals', 'trifeature_paper')
    )
    assert small['metrics'] == rivals['metrics'] == paper['metrics']
    # These cells were measured later, and share all options but those of the objective.
    assert all(small[key] == rivals[key] for key in ('pretrain_all', 'probe'))
    cells = small['pretrain'] | rivals['pretrain']
    # The small fusion transformer and critics are narrower.
    narrow = {f'--model.init_args.{k}_dim=128' for k in ('embed', 'critic')}
    assert paper['pretrain'] == {
        name: [o for o in options if o not in narrow] for name, options in cells.items()
    }
    more = '--config=../trifeature/pretrain_paper.yaml'
    assert [o for o in paper['pretrain_all'] if o != more] == small['pretrain_all']
    assert [
        [o.replace('_paper.yaml', '.yaml') for o in options]
        for options in paper['probe']
    ] == small['probe']


@pytest.mark.parametrize('size', ['small', 'paper'])
def test_pretrains_and_probes_in_each_size(
    size: str, torchgeo: Callable[..., None], tmp_path: Path
) -> None:
    sizes = ['small'] if size == 'small' else ['small', 'paper']
    save = f'--trainer.logger.init_args.save_dir={tmp_path}'
    configs = [f'--config={FOLDER}/trifeature/pretrain_{s}.yaml' for s in sizes]
    projector = '--model.init_args.projector=[16, 16]'
    biased = '--data.init_args.pairing=biased'
    torchgeo('fit', *configs, *SHORT, save, projector, biased)
    run = tmp_path / 'pretrain' / 'version_0'
    hparams = yaml.safe_load((run / 'hparams.yaml').read_text())
    assert hparams['model'] == {'small': 'alexnet_small', 'paper': 'alexnet'}[size]
    assert hparams['size'] == {'small': 48, 'paper': 224}[size]

    suffix = '' if size == 'small' else '_paper'
    for pairing, label in (('unbiased', 'label_share'), ('balanced', 'label_synergy')):
        content = yaml.safe_load(
            (FOLDER / 'trifeature' / f'{pairing}{suffix}.yaml').read_text()
        )
        options = content['data']['init_args']
        assert options['pairing'] == pairing and options['size'] == hparams['size']
        options |= {'length': 40, 'val_length': 40, 'num_workers': 0}
        data = tmp_path / 'data.yaml'
        data.write_text(yaml.safe_dump(content))
        out = tmp_path / f'{label}.csv'
        given = [f'--data={data}', f'--labels=["{label}"]', f'--out={out}']
        main(['probe', f'{run}/config.yaml', *given])
        with out.open() as file:
            rows = list(csv.DictReader(file))
        assert {row['label'] for row in rows} == {label}
        places = {(row['name'], row['part']) for row in rows}
        assert ('together', 'features') in places
        assert ('first', 'common') in places and ('first+second', 'unique') in places
        assert all(0 <= float(row['score']) <= 100 for row in rows)
