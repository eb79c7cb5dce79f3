import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import HfApi
from safetensors import safe_open

from torchgeo_decur.modalities import MODALITIES
from torchgeo_decur.models import MultimodalEncoder, load_weights
from torchgeo_decur.weights.metadata import EncoderMetadata

MODALITIES_OF = {'s1': 2, 's2': 13}


def encoders() -> MultimodalEncoder:
    torch.manual_seed(0)
    training = {'task': 'DeCUR', 'data': 'SyntheticEODataModule', 'epochs': 6}
    metadata = {
        's1': EncoderMetadata.of('s1', 2, MODALITIES['sentinel1_grd'], training),
        's2': EncoderMetadata.of('s2', 13, MODALITIES['sentinel2_l1c'], training),
    }
    return MultimodalEncoder(
        MODALITIES_OF,
        {'s1': 'test_resnet', 's2': 'test_vit'},
        metadata={m: known.to_dict() for m, known in metadata.items()},
    ).eval()


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('hub') / 'encoders'
    encoders().save_pretrained(folder)
    return folder


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(
        v.equal(second[k]) for k, v in first.items()
    )


def test_reads_what_it_writes(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == [
        'README.md',
        'config.json',
        'model.safetensors',
    ]
    read = MultimodalEncoder.from_pretrained(folder)
    assert not read.training and equal(read, encoders())
    assert read.modalities == MODALITIES_OF
    assert read.model == {'s1': 'test_resnet', 's2': 'test_vit'}
    assert read.metadata['s2']['bands'] == list(MODALITIES['sentinel2_l1c'].bands)
    again = folder.with_name('again')
    read.save_pretrained(again)
    # The header of safetensors has no order of its own.
    for name in ('config.json', 'README.md'):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    assert equal(MultimodalEncoder.from_pretrained(again), read)


def test_ignores_options_of_older_versions_of_the_hub(folder: Path) -> None:
    # As its mixin calls before version 1.
    read = MultimodalEncoder._from_pretrained(
        model_id=str(folder),
        revision=None,
        cache_dir=None,
        force_download=False,
        local_files_only=False,
        token=None,
        proxies=None,
        resume_download=None,
        **json.loads((folder / 'config.json').read_text()),
    )
    assert equal(read, encoders())


def test_config_names_no_file_of_this_machine(tmp_path: Path) -> None:
    torch.save(encoders().encoders['s1'].state_dict(), tmp_path / 's1.pt')
    start = MultimodalEncoder({'s1': 2}, 'test_resnet', str(tmp_path / 's1.pt'))
    start.save_pretrained(tmp_path / 'hub')
    config = json.loads((tmp_path / 'hub' / 'config.json').read_text())
    assert config == {
        'modalities': {'s1': 2},
        'model': {'s1': 'test_resnet'},
        'metadata': {},
    }
    # Read where the file is gone.
    (tmp_path / 's1.pt').unlink()
    assert equal(MultimodalEncoder.from_pretrained(str(tmp_path / 'hub')), start)


def test_parameters_start_other_encoders(folder: Path) -> None:
    file = folder / 'model.safetensors'
    with safe_open(file, framework='pt') as opened:
        assert json.loads(opened.metadata()['model'])['s2'] == 'test_vit'
    # Bands are adapted by their names, which the file has.
    fresh = MultimodalEncoder({'s1': 1}, 'test_resnet')
    load_weights(fresh, file, bands={'s1': ['VH']})
    kernel = encoders().encoders['s1'].conv1[0].weight[:, 1:]
    assert fresh.encoders['s1'].conv1[0].weight.equal(kernel)
    built = MultimodalEncoder.from_weights(file, ['s1'])
    assert list(built.encoders) == ['s1'] and built.metadata['s1']['unit'] == 'dB'


def test_card_describes_the_encoders(folder: Path) -> None:
    _, header, text = (folder / 'README.md').read_text().split('---\n', 2)
    data = yaml.safe_load(header)
    assert data['library_name'] == 'torchgeo-decur' and 'license' not in data
    assert 'pytorch_model_hub_mixin' in data['tags']
    assert '| s2 | 13 | `test_vit` | 64 |' in text
    assert '2 bands in dB: VV, VH.' in text and '| VV | -23.11 | -2.07 |' in text
    assert '| objective | DeCUR | DeCUR |' in text and '| epochs | 6 | 6 |' in text
    assert '| data | SyntheticEODataModule | SyntheticEODataModule |' in text
    assert 'https://arxiv.org/abs/2309.05300' in text


def test_example_of_the_card_runs(folder: Path) -> None:
    code = re.search(r'```python\n(.*?)```', (folder / 'README.md').read_text(), re.S)
    assert code is not None
    found: dict[str, Any] = {}
    exec(code[1].replace('user/name', str(folder)), found)
    assert {m: tuple(h.shape) for m, h in found['features'].items()} == {'s2': (4, 64)}


def test_card_describes_unknown_encoders_and_elevation(tmp_path: Path) -> None:
    known = EncoderMetadata.of('dem', 1, MODALITIES['geonrw_dem']).to_dict()
    normalize = {'mean': [0.5], 'std': [0.2]}
    plain = MultimodalEncoder(
        {'dem': 1, 'x': 3},
        'test_resnet',
        metadata={'dem': {**known, 'licence': 'Apache-2.0', 'normalize': normalize}},
    )
    card = plain.generate_model_card(repo_id='me/mine', language='en')
    text = str(card)
    assert card.data.license == 'apache-2.0' and card.data.language == 'en'
    assert "from_pretrained('me/mine')" in text
    assert 'clipped to its own 1st and 99th percentiles' in text
    assert 'Bands, unit and scale were not recorded' in text
    assert 'standardized with mean [0.5] and standard deviation [0.2]' in text


def test_keeps_an_existing_card(tmp_path: Path) -> None:
    (tmp_path / 'README.md').write_text('edited')
    MultimodalEncoder({'s1': 2}, 'test_resnet').save_pretrained(tmp_path)
    assert (tmp_path / 'README.md').read_text() == 'edited'


def test_pushes_to_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}

    class Repository:
        repo_id = 'me/mine'

    def upload(self: HfApi, *, folder_path: Path, **options: Any) -> str:
        sent.update(options, files=sorted(p.name for p in folder_path.iterdir()))
        return 'url'

    monkeypatch.setattr(HfApi, 'create_repo', lambda *args, **options: Repository())
    monkeypatch.setattr(HfApi, 'upload_folder', upload)
    assert MultimodalEncoder({'s1': 2}, 'test_resnet').push_to_hub('me/mine') == 'url'
    assert sent['repo_id'] == 'me/mine'
    assert sent['files'] == ['README.md', 'config.json', 'model.safetensors']


def test_reads_from_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repo_id: str, filename: str, **options: Any) -> str:
        asked.append((repo_id, filename, options['revision']))
        return str(folder / filename)

    def config(repo_id: str, filename: str, **options: Any) -> str:
        return download(repo_id, filename, **options)

    monkeypatch.setattr('huggingface_hub.hub_mixin.hf_hub_download', config)
    monkeypatch.setattr('torchgeo_decur.weights.hub.hf_hub_download', download)
    read = MultimodalEncoder.from_pretrained('me/mine', revision='v1')
    assert equal(read, encoders())
    assert asked == [
        ('me/mine', name, 'v1') for name in ('config.json', 'model.safetensors')
    ]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'config.json': None}, r'found no config\.json'),
        ({'model.safetensors': None}, r'found no model\.safetensors'),
        (
            {'config.json': '{"model_type": "bert"}'},
            r'found a config.json without modalities',
        ),
        ({'config.json': '["a"]'}, r'found a config\.json without modalities'),
        ({'config.json': '{'}, r'found a config\.json that is not JSON'),
        (
            {'config.json': '{"modalities": {"s1": 3}, "model": "test_resnet"}'},
            r'expected the parameters of the encoder for s1, found another model',
        ),
        ({'model.safetensors': 'no'}, r'found an unreadable file'),
    ],
)
def test_rejects_another_folder(
    folder: Path, tmp_path: Path, change: dict[str, str | None], message: str
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for name, content in change.items():
        (tmp_path / name).unlink()
        if content is not None:
            (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        MultimodalEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize('name', ['nowhere', 'file.pt'])
def test_rejects_a_missing_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / 'file.pt').write_text('')
    with pytest.raises(
        FileNotFoundError, match=r'must be a folder written by save_pretrained'
    ):
        MultimodalEncoder.from_pretrained(tmp_path / name)


def test_rejects_metadata_that_json_cannot_hold(tmp_path: Path) -> None:
    encoder = MultimodalEncoder({'s1': 2}, 'test_resnet', metadata={'s1': {'a': {1}}})
    with pytest.raises(
        ValueError, match=r'values that JSON supports, got .* set .*; convert'
    ):
        encoder.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_failure_while_writing_leaves_no_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(state: Any, file: Path, metadata: Any) -> None:
        file.write_text('half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('safetensors.torch.save_file', fail)
    with pytest.raises(OSError, match='No space left'):
        MultimodalEncoder({'s1': 2}, 'test_resnet').save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []
