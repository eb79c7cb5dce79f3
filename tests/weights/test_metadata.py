"""Check that all file formats have the same metadata of an encoder."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.encoder_states import random_state
from torchgeo_decur.modalities import MODALITIES, Modality
from torchgeo_decur.models import MultimodalEncoder, save_encoder
from torchgeo_decur.weights.encoder_files import read_checkpoint
from torchgeo_decur.weights.enums import WEIGHTS
from torchgeo_decur.weights.metadata import EncoderMetadata

TRAINING = {'task': 'DeCUR', 'hyper_parameters': {'size': 32}, 'epochs': 2}
RECORDS = {**MODALITIES, 'holes': replace(MODALITIES['sunrgbd_depth'], nodata=math.nan)}


@pytest.mark.parametrize('name', RECORDS)
def test_every_format_keeps_the_record(name: str, tmp_path: Path) -> None:
    record = RECORDS[name]
    known = EncoderMetadata.of('x', record.channels, record, TRAINING)
    state = random_state('test_resnet', record.channels)
    _, file = save_encoder(state, tmp_path / 'x', 'test_resnet', known.to_dict())
    read = read_checkpoint(file).metadata['']
    assert read.record == record and read.training == TRAINING
    assert read.model == 'test_resnet' and read.in_chans == record.channels
    encoders = MultimodalEncoder.from_weights(file)
    assert encoders.metadata == {'x': known.to_dict()}
    encoders.save_pretrained(tmp_path / 'hub')
    again = MultimodalEncoder.from_pretrained(tmp_path / 'hub')
    assert again.metadata == encoders.metadata
    weights = read_checkpoint(tmp_path / 'hub' / 'model.safetensors')
    assert weights.metadata['x'].record == record


def test_values_are_strict_json() -> None:
    for record in RECORDS.values():
        plain = record.to_dict()
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        assert Modality.of(plain) == record


@pytest.mark.parametrize('entry', [e for enum in WEIGHTS for e in enum], ids=str)
def test_published_entries_have_the_same_record(entry: object) -> None:
    meta, encoders = entry.meta, entry.encoders  # type: ignore[attr-defined]
    several = len(encoders) > 1
    assert list(encoders) == meta['modalities']
    for m, known in encoders.items():
        assert known.record == MODALITIES[meta['sensors'][m]]
        assert known.training['weights'] == str(entry)
        assert known.model == meta['model']
        assert (meta['bands'][m] if several else meta['bands']) == list(known.bands)
        channels = meta['in_chans'][m] if several else meta['in_chans']
        assert channels == known.in_chans
        assert known.normalize == meta.get('normalize', {}).get(m, {})


def test_a_record_of_some_fields_keeps_them() -> None:
    known = EncoderMetadata.from_dict({'bands': ['VV', 'VH'], 'unit': 'dB', 'a': 1})
    assert known.record is None and known.bands == ('VV', 'VH')
    assert known.to_dict() == {
        'modality': 'encoder',
        'in_chans': 0,
        'bands': ['VV', 'VH'],
        'unit': 'dB',
        'limits': None,
    }


def test_nodata_must_be_a_number() -> None:
    with pytest.raises(ValueError, match="nodata must be a number, got 'none'"):
        Modality.of({'bands': ['z'], 'kind': 'depth', 'unit': 'm', 'nodata': 'none'})
