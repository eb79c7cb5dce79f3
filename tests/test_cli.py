"""Run the command in this process."""

import json
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torchgeo.tasks import Classification

from tests.helpers.small_fits import MODALITIES, datamodule, trainer
from tests.helpers.versions import needs_onnx
from torchgeo_decur import __version__
from torchgeo_decur.cli import main
from torchgeo_decur.models import (
    MultimodalEncoder,
    create_encoder,
    list_weights,
    load_weights,
)
from torchgeo_decur.tasks import LateFusionClassification
from torchgeo_decur.weights.encoder_files import read_checkpoint

MODEL = 'resnet18'
ROOT = Path(__file__).parents[1]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Write a joint file of GeoNRW in the published format, with a small backbone."""
    torch.manual_seed(0)
    state = {}
    for i, channels in enumerate((3, 3), start=1):
        encoder = create_encoder(MODEL, channels)
        state |= {
            f'module.backbone_{i}.{k}': v for k, v in encoder.state_dict().items()
        }
        state[f'module.projector{i}.0.weight'] = torch.rand(4, 4)
    file = tmp_path / 'rn50_geonrw_joint_decur_ep100.pth'
    torch.save({'epoch': 99, 'model': state}, file)
    return file


def test_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(['--version'])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f'torchgeo-decur {__version__}\n'


class TestConfig:
    def test_prints_a_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        main(['config', 'quickstart'])
        file = ROOT / 'experiments' / 'quickstart.yaml'
        assert capsys.readouterr().out == file.read_text()

    def test_writes_every_file(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        main(['config', '--out', str(tmp_path)])
        for file in (ROOT / 'experiments').rglob('*.yaml'):
            copy = tmp_path / file.relative_to(ROOT / 'experiments')
            assert copy.exists() == (file.parent.name != 'tables')
            assert not copy.exists() or copy.read_text() == file.read_text()
        main(['config', '--out', str(tmp_path)])
        assert f'configs in {tmp_path}' in capsys.readouterr().out

    def test_keeps_changed_files_of_the_user(self, tmp_path: Path) -> None:
        mine = tmp_path / 'quickstart.yaml'
        mine.write_text('seed_everything: 1\n')
        with pytest.raises(SystemExit, match=r'quickstart\.yaml exists and differs'):
            main(['config', '--out', str(tmp_path)])
        assert mine.read_text() == 'seed_everything: 1\n'
        assert [*tmp_path.rglob('*.yaml')] == [mine]

    def test_writes_all_or_prints_one(self, tmp_path: Path) -> None:
        with pytest.raises(
            SystemExit, match=r"must not be set with --out, .* got 'quickstart'"
        ):
            main(['config', 'quickstart', '--out', str(tmp_path)])

    def test_closed_pipe_is_no_error(self) -> None:
        run = f'"{sys.executable}" -m torchgeo_decur config | true'
        done = subprocess.run(run, shell=True, capture_output=True, text=True, cwd=ROOT)
        assert 'pipe' not in done.stderr.lower()

    def test_lists_every_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        main(['config'])
        rows = capsys.readouterr().out.splitlines()
        found = dict(row.split(maxsplit=1) for row in rows)
        files = (ROOT / 'experiments').rglob('*.yaml')
        names = {
            p.relative_to(ROOT / 'experiments').with_suffix('').as_posix()
            for p in files
        }
        assert set(found) == {n for n in names if not n.startswith('tables/')}
        assert found['objectives/vicreg'] == 'VICReg with modalities as views'
        assert found['transfer/synthetic'] == (
            'Built-in scenes, landscape (8 classes): a linear layer on frozen encoders of '
            'experiments/synthetic.yaml'
        )

    def test_finds_the_copy_of_the_wheel_first(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr('torchgeo_decur.config._INSIDE', tmp_path)
        (tmp_path / 'mine.yaml').write_text('# Mine.\ntrainer: {}\n')
        main(['config'])
        main(['config', 'mine'])
        assert capsys.readouterr().out == 'mine  Mine\n# Mine.\ntrainer: {}\n'

    def test_refuses_an_unknown_name(self) -> None:
        with pytest.raises(
            SystemExit, match=r"one of \['geonrw_.*'quickstart'.*got 'quick'"
        ):
            main(['config', 'quick'])


class TestWeights:
    def test_lists_weights_in_a_table(
        self,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
        (tmp_path / 'checkpoints').mkdir()
        file = tmp_path / 'checkpoints' / 'vits16_geonrw_dem_decur_ep100.pth'
        file.write_bytes(bytes(2_600_000))
        main(['weights'])
        header, *rows = capsys.readouterr().out.splitlines()
        columns = ['name', 'modality', 'bands', 'size', 'license', 'cached']
        assert header.split() == columns
        assert [row.split()[0] for row in rows] == list_weights()
        (cached,) = [row for row in rows if row.endswith('yes')]
        expected = (
            'ViTSmall16_Weights.GEONRW_DEM_DECUR dem elevation 3 MB Apache-2.0 yes'
        )
        assert cached.split() == expected.split()


class TestConvert:
    def test_converts_a_published_file_to_torchgeo(
        self, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / 'out'
        options = ['--to=torchgeo', f'--out={out}', f'--model={MODEL}']
        main(['convert', str(published), *options])
        printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
        stem = 'rn50_geonrw_joint_decur_ep100'
        assert printed == [out / f'{stem}_{m}.pt' for m in ('rgb', 'dem')]
        original = read_checkpoint(published).states
        rgb = Classification(
            MODEL, weights=str(printed[0]), in_channels=3, num_classes=2
        )
        kernel = original['backbone_1']['conv1.weight']
        assert rgb.model.conv1.weight.equal(kernel.flip(1))
        # The three equal channels of elevation are one now.
        dem = Classification(
            MODEL, weights=str(printed[1]), in_channels=1, num_classes=2
        )
        kernel = original['backbone_2']['conv1.weight'].sum(1, keepdim=True)
        assert dem.model.conv1.weight.equal(kernel)

    @pytest.mark.parametrize(
        ('model', 'message'),
        [
            ('resnet99', r"must be the name of a timm model, got 'resnet99'; did you"),
            ('resnet34', 'found another model with 96 missing .*; use the same model'),
        ],
    )
    def test_refuses_another_model(
        self, published: Path, tmp_path: Path, model: str, message: str
    ) -> None:
        out = tmp_path / 'out'
        options = [f'--out={out}', f'--model={model}', '--modality=rgb']
        for layout in ('torchgeo', 'timm'):
            with pytest.raises(SystemExit, match=message):
                main(['convert', str(published), f'--to={layout}', *options])
        assert not out.exists()

    def test_converts_to_safetensors_with_the_bands(
        self, published: Path, tmp_path: Path
    ) -> None:
        options = ['--to=safetensors', f'--out={tmp_path}', '--modality=rgb']
        main(['convert', str(published), *options])
        (file,) = tmp_path.glob('*.safetensors')
        with safe_open(file, framework='pt') as opened:
            metadata = opened.metadata()
        assert metadata['bands'] == '["R", "G", "B"]'
        assert metadata['model'] == 'resnet50'
        encoder = create_encoder(MODEL, 2)
        report = load_weights(encoder, file, bands=['B', 'R'])['']
        assert report.changes == (
            "reordered the bands ['R', 'G', 'B'] to ['B', 'R']",
            "dropped the unused bands ['G']",
        )

    def test_converts_an_export_to_timm(self, fitted: Path, tmp_path: Path) -> None:
        file = fitted / 'encoders' / 's2.pt'
        main(['convert', str(file), '--to', 'timm', '--out', str(tmp_path)])
        state = torch.load(tmp_path / 's2_encoder.pth', weights_only=True)
        (expected,) = read_checkpoint(file).states.values()
        assert list(state) == list(expected)
        assert all(state[k].equal(v) for k, v in expected.items())

    def test_converts_published_weights_to_onnx(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state = {
            f'module.backbone_{i}.{k}': v
            for i in (1, 2)
            for k, v in create_encoder('mit_b0', 3).state_dict().items()
        }
        file = tmp_path / 'mitb2_sunrgbd_rgb_hha_decur_ep200.pth'
        torch.save({'model': state}, file)
        written: list[tuple[Any, ...]] = []
        monkeypatch.setattr(
            'torchgeo_decur.cli.commands.save_onnx', lambda *args: written.append(args)
        )
        main(['convert', str(file), '--to=onnx', f'--out={tmp_path}'])
        (_, rgb, model, colour, size), (_, hha, _, depth, _) = written
        assert size == 224
        assert (rgb.name, hha.name) == (f'{file.stem}_rgb', f'{file.stem}_hha')
        assert model == 'mit_b2' and colour['bands'] == ['R', 'G', 'B']
        assert colour['limits'] == [[0.0] * 3, [255.0] * 3]
        assert colour['licence'] == 'Apache-2.0' and colour['data'] == 'SUN RGB-D'
        for said in (colour, depth):
            assert said['normalize']['mean'] == [0.406, 0.456, 0.485]

    def test_writes_no_classifier(self, tmp_path: Path) -> None:
        state = {'conv1.weight': torch.rand(4, 3, 7, 7), 'fc.bias': torch.rand(3)}
        torch.save(state, tmp_path / 'plain.pth')
        main(['convert', str(tmp_path / 'plain.pth'), '--to=timm', f'--out={tmp_path}'])
        converted = torch.load(tmp_path / 'plain_encoder.pth', weights_only=True)
        assert list(converted) == ['conv1.weight']

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (
                ['--modality', 's2'],
                r"modality must be one of \['rgb', 'dem'\], got 's2'",
            ),
            (['--out', 'FILE/x'], r'output folder must be writable'),
        ],
    )
    def test_rejects_invalid_arguments(
        self, published: Path, arguments: list[str], message: str
    ) -> None:
        arguments = [a.replace('FILE', str(published)) for a in arguments]
        with pytest.raises(SystemExit, match=rf'^torchgeo-decur: {message}'):
            main(['convert', str(published), *arguments])

    def test_asks_for_the_model_of_a_file_without_its_name(
        self, tmp_path: Path
    ) -> None:
        torch.save({'conv1.weight': torch.rand(4, 3, 7, 7)}, tmp_path / 'plain.pth')
        with pytest.raises(SystemExit, match=r'set the timm model name with --m'):
            main(['convert', str(tmp_path / 'plain.pth'), f'--out={tmp_path}'])

    def test_names_a_missing_file(self) -> None:
        with pytest.raises(SystemExit, match=r"or a file, got 'nowhere\.pth'"):
            main(['convert', 'nowhere.pth'])


class TestExport:
    def test_writes_the_files_of_the_callback(
        self, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (checkpoint,) = list((fitted / 'checkpoints').glob('*.ckpt'))[:1]
        main(['export', str(checkpoint), '--out', str(tmp_path)])
        files = [Path(line) for line in capsys.readouterr().out.splitlines()]
        expected = sorted((fitted / 'encoders').iterdir())
        assert sorted(f.name for f in files) == [f.name for f in expected]
        for name in ('s1', 's2'):
            metadata: list[Mapping[str, str]] = []
            for folder in (tmp_path, fitted / 'encoders'):
                with safe_open(
                    folder / f'{name}.safetensors', framework='pt'
                ) as opened:
                    metadata.append(opened.metadata())
            assert metadata[0] == metadata[1]
            assert metadata[0]['task'] == 'DeCUR'
            assert metadata[0]['data'] == 'SyntheticEODataModule'
            states = [
                read_checkpoint(folder / f'{name}.pt').states['']
                for folder in (tmp_path, fitted / 'encoders')
            ]
            assert all(states[0][k].equal(v) for k, v in states[1].items())

    @needs_onnx
    def test_exports_onnx_and_a_hub_folder(self, fitted: Path, tmp_path: Path) -> None:
        (checkpoint,) = list((fitted / 'checkpoints').glob('*.ckpt'))[:1]
        out, hub = tmp_path / 'out', tmp_path / 'hub'
        main(['export', '--onnx', str(checkpoint), f'--out={out}', f'--hub={hub}'])
        suffixes = ('onnx', 'pt', 'safetensors')
        files = [f'{m}.{suffix}' for m in ('s1', 's2') for suffix in suffixes]
        assert sorted(f.name for f in out.iterdir()) == files
        encoders = MultimodalEncoder.from_pretrained(hub)
        x = torch.rand(3, 2, 32, 32)
        with torch.no_grad():
            expected = encoders({'s1': x})['s1']
        session = onnxruntime.InferenceSession(out / 's1.onnx')
        (found,) = session.run(['features'], {'image': x.numpy()})
        assert (torch.from_numpy(found) - expected).abs().max() < 1e-4
        with safe_open(out / 's1.safetensors', framework='pt') as opened:
            metadata = opened.metadata()
        del metadata['format']
        assert session.get_modelmeta().custom_metadata_map == metadata
        assert json.loads(metadata['limits']) == encoders.metadata['s1']['limits']

    @needs_onnx
    def test_exports_all_encoders_in_one_program(
        self, fitted: Path, tmp_path: Path
    ) -> None:
        (checkpoint,) = list((fitted / 'checkpoints').glob('*.ckpt'))[:1]
        switches = ['--program', '--whole', '--size=32']
        main(['export', str(checkpoint), f'--out={tmp_path}', *switches])
        encoders = MultimodalEncoder.from_weights(checkpoint).eval()
        images = {m: torch.rand(3, c, 32, 32) for m, c in encoders.modalities.items()}
        available = {m: torch.tensor([True, m == 's1', False]) for m in images}
        program = torch.export.load(tmp_path / 'encoders.pt2').module()
        with torch.no_grad():
            expected, found = encoders(images), program(images, available)
        for m, mask in available.items():
            torch.testing.assert_close(
                found[f'features_{m}'], expected[m] * mask[:, None]
            )

    @needs_onnx
    def test_exports_the_whole_model_of_a_transfer(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {'num_classes': 8, 'size': 64}
        options['label_key'] = 'label_common'
        task = LateFusionClassification(MODALITIES, 'alexnet_small', **options)
        data = datamodule()
        run = trainer(max_steps=1)
        run.fit(task, data)
        run.save_checkpoint(tmp_path / 'x.ckpt')
        main(['export', str(tmp_path / 'x.ckpt'), '--onnx', f'--out={tmp_path}'])
        assert sorted(f.name for f in tmp_path.iterdir()) == [
            'model.onnx',
            *(f'{m}.{suffix}' for m in MODALITIES for suffix in ('pt', 'safetensors')),
            'x.ckpt',
        ]
        session = onnxruntime.InferenceSession(tmp_path / 'model.onnx')
        images = {f'image_{m}': torch.rand(2, c, 70, 66) for m, c in MODALITIES.items()}
        available = {
            f'available_{m}': torch.tensor([m == 's1', True]) for m in MODALITIES
        }
        inputs = {**images, **available}
        with torch.no_grad():
            expected = task.eval().predict_step(inputs, 0)
        given = {k: x.numpy() for k, x in inputs.items()}
        (found,) = session.run(['probabilities'], given)
        assert (torch.from_numpy(found) - expected).abs().max() < 1e-4
        told = session.get_modelmeta().custom_metadata_map
        assert told['task'] == 'LateFusionClassification'
        records = json.loads(told['modalities'])
        for m, modality in data.modalities.items():
            assert records[m]['unit'] == modality.unit
            assert records[m]['limits'] == json.loads(json.dumps(modality.limits))

    def test_options_of_files_that_are_not_written(self, fitted: Path) -> None:
        (checkpoint,) = list((fitted / 'checkpoints').glob('*.ckpt'))[:1]
        with pytest.raises(SystemExit, match=r'whole and size require onnx or program'):
            main(['export', str(checkpoint), '--whole'])

    def test_writes_next_to_the_checkpoint(self, tmp_path: Path) -> None:
        encoder = create_encoder(MODEL, 2)
        state = {
            f'encoders.encoders.s1.{k}': v for k, v in encoder.state_dict().items()
        }
        options = {'modalities': {'s1': 2}, 'model': MODEL}
        torch.save(
            {'state_dict': state, 'hyper_parameters': options}, tmp_path / 'x.ckpt'
        )
        main(['export', str(tmp_path / 'x.ckpt')])
        files = sorted(f.name for f in (tmp_path / 'encoders').iterdir())
        assert files == ['s1.pt', 's1.safetensors']

    def test_refuses_another_checkpoint(self, published: Path) -> None:
        message = r'expected a checkpoint of a task such as .*DeCUR, found encoders of'
        with pytest.raises(SystemExit, match=message):
            main(['export', str(published)])


def test_probe_checks_that_its_output_is_writable_first(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    out = tmp_path / 'file' / 'probes.csv'
    with pytest.raises(SystemExit, match=r'output folder must be writable, got .*file'):
        main(['probe', str(tmp_path / 'no.yaml'), f'--out={out}'])


def test_runs_as_a_script() -> None:
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    module, _, name = project['scripts']['torchgeo-decur'].partition(':')
    script: Callable[..., None] = getattr(import_module(module), name)
    assert script is main


def test_runs_as_a_module(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'argv', ['torchgeo-decur', '--help'])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module('torchgeo_decur', run_name='__main__')
    assert stopped.value.code == 0
    assert 'List the published weights' in capsys.readouterr().out
