from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from tests.helpers.encoder_states import SMALL, assert_loaded, random_state
from torchgeo_decur.models import create_encoder, load_weights, save_encoder


class TestSaveEncoder:
    @pytest.fixture
    def encoder(self) -> nn.Module:
        encoder = create_encoder(SMALL, 2)
        encoder.load_state_dict(random_state())
        return encoder.to(memory_format=torch.channels_last)

    @pytest.fixture
    def files(self, encoder: nn.Module, tmp_path: Path) -> list[Path]:
        metadata = {'bands': ['VV', 'VH'], 'unit': 'dB'}
        return save_encoder(encoder, tmp_path / 'out' / 's1.v2', SMALL, metadata)

    def test_reads_back_both_formats(
        self, encoder: nn.Module, files: list[Path]
    ) -> None:
        assert [file.name for file in files] == ['s1.v2.pt', 's1.v2.safetensors']
        assert sorted(files[0].parent.iterdir()) == files
        for file in files:
            fresh = create_encoder(SMALL, 2)
            load_weights(fresh, file)
            assert_loaded(fresh, encoder.state_dict())

    def test_writes_the_layout_of_torchgeo(
        self, encoder: nn.Module, files: list[Path]
    ) -> None:
        checkpoint = torch.load(files[0], weights_only=True)
        assert checkpoint['hyper_parameters'] == {'model': SMALL}
        expected = [f'model.{k}' for k in encoder.state_dict()]
        assert list(checkpoint['state_dict']) == expected

    def test_stores_metadata(self, files: list[Path]) -> None:
        with safe_open(files[1], framework='pt') as opened:
            metadata = opened.metadata()
        assert metadata['bands'] == '["VV", "VH"]'
        assert metadata['unit'] == 'dB'
        assert metadata['model'] == SMALL

    def test_all_files_have_the_same_permissions(
        self, encoder: nn.Module, tmp_path: Path
    ) -> None:
        (tmp_path / 'any').touch()
        every = ('pt', 'pth', 'safetensors')
        files = save_encoder(encoder, tmp_path / 's1', SMALL, {}, every)
        modes = {file.stat().st_mode for file in files}
        assert modes == {(tmp_path / 'any').stat().st_mode}

    def test_rejects_a_read_only_folder(
        self, encoder: nn.Module, tmp_path: Path
    ) -> None:
        (tmp_path / 'file').touch()
        message = r'output folder must be writable, got .*file'
        with pytest.raises(ValueError, match=message):
            save_encoder(encoder, tmp_path / 'file' / 's1', SMALL, {})
