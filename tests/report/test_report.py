"""Report on a tiny fit, end to end."""

import base64
import csv
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchgeo.tasks import Classification

from torchgeo_decur.analysis import AnalysisResult
from torchgeo_decur.cli import main
from torchgeo_decur.cli.report import ANALYSES, store, write_report, writer
from torchgeo_decur.datamodules import SyntheticEODataModule
from torchgeo_decur.datamodules.base import MultimodalDataModule
from torchgeo_decur.tasks import BarlowTwins, CoMM, DeCUR

MODALITIES = {'s1': 2, 's2': 13}
CHEAP = ['alignment', 'retrieval', 'rank']


class Page(HTMLParser):
    """Parser of headings, links, images and nesting of a page."""

    VOID = ('meta', 'link', 'img', 'br', 'hr')

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.words = ''
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attrs for name, attrs in self.found if name == tag]


class Plain(Dataset[dict[str, Tensor]]):
    """Dataset of noise without labels."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(index)
        return {
            f'image_{m}': torch.rand(c, 32, 32, generator=random)
            for m, c in MODALITIES.items()
        }


class PlainDataModule(MultimodalDataModule):
    def __init__(self) -> None:
        bands = {m: [f'band {i}' for i in range(c)] for m, c in MODALITIES.items()}
        known = {
            m: {'bands': b, 'kind': 'multispectral', 'unit': 'native'}
            for m, b in bands.items()
        }
        super().__init__(known, batch_size=5)
        self.val_dataset = Plain()

    def setup(self, stage: str) -> None:
        """Do nothing, because the data exist."""


@pytest.fixture(scope='module')
def checkpoint(fitted: Path) -> Path:
    (found,) = (fitted / 'checkpoints').glob('*.ckpt')
    return found


@pytest.fixture(scope='module')
def made(checkpoint: Path, fitted: Path, tmp_path_factory: Any) -> Path:
    """Write a report and return its folder."""
    folder: Path = tmp_path_factory.mktemp('report') / 'out'
    config = fitted / 'config.yaml'
    options = [f'--config={config}', f'--out={folder}', '--max_images=8']
    main(['report', str(checkpoint), *options])
    return folder


@pytest.fixture(scope='module')
def task() -> DeCUR:
    torch.manual_seed(0)
    return DeCUR(MODALITIES, model='test_resnet', projector=[8, 8], common_ratio=0.5)


@pytest.fixture
def data() -> SyntheticEODataModule:
    return SyntheticEODataModule(length=8, val_length=12, batch_size=4, size=32)


def result(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name / store.MARKER).read_text())
    return content


class TestPage:
    @pytest.fixture
    def page(self, made: Path) -> Page:
        return Page((made / 'report.html').read_text('utf-8'))

    def test_needs_no_other_file(self, page: Page) -> None:
        assert not page.all('script')
        assert page.all('link') == [{'rel': 'icon', 'href': 'data:,'}]
        targets = [a['href'] for a in page.all('a')]
        assert not [t for t in targets if ':' in t]

    def test_contains_every_image(self, page: Page, made: Path) -> None:
        images = page.all('img')
        files = sorted(file.read_bytes() for file in made.glob('*/*.png'))
        start = 'data:image/png;base64,'
        assert all(i['src'].startswith(start) for i in images)
        within = [base64.b64decode(i['src'].removeprefix(start)) for i in images]
        assert sorted(within) == files and len(files) >= len(ANALYSES)
        assert all(len(i['alt']) > 20 for i in images)

    def test_page_links_to_each_heading(self, page: Page) -> None:
        assert len(page.all('h1')) == 1
        assert page.all('html') == [{'lang': 'en'}]
        ids = [h['id'] for h in page.all('h2') if 'id' in h]
        assert ids == list(ANALYSES)
        links = [a['href'] for a in page.all('a') if a['href'].startswith('#')]
        assert links[1:] == [f'#{i}' for i in ids]
        # Boxes that scroll are reached with the keyboard.
        boxes = [d for d in page.all('div') if d.get('class') == 'box']
        assert boxes and all(d['tabindex'] == '0' and d['aria-label'] for d in boxes)

    def test_states_its_sources(self, page: Page, checkpoint: Path) -> None:
        for text in (str(checkpoint), '14 common, 2 unique, 16 all', 'val, 24 samples'):
            assert text in page.words
        for name in ('Config', 'Versions', 'Date', 'label_common, label_s1'):
            assert name in page.words

    def test_links_to_files(self, page: Page, made: Path) -> None:
        files = [a['href'] for a in page.all('a') if not a['href'].startswith('#')]
        assert files and all((made / file).is_file() for file in files)


class TestFiles:
    def test_writes_the_files_of_every_analysis(self, made: Path) -> None:
        folders = {f.parent.name for f in made.glob(f'*/{store.MARKER}')}
        assert folders == set(ANALYSES)
        for name in ANALYSES:
            content = result(made, name)
            # The split has 24 samples.
            small = name == 'shared' and '40 samples' in content['text']
            assert small or 'Not computed' not in content['text'], name
            for figure in content['figures']:
                assert (made / name / f'{figure}.svg').read_text().startswith('<?xml')
            for table, rows in content['tables'].items():
                with (made / name / f'{table}.csv').open(newline='') as file:
                    read = list(csv.DictReader(file))
                written = [
                    {k: '' if v is None else str(v) for k, v in r.items()} for r in rows
                ]
                assert written == read

    def test_leaves_no_partial_files(self, made: Path) -> None:
        assert not [f for f in made.rglob('*') if 'partial' in f.name]


class TestResume:
    def test_computes_nothing_twice(
        self, made: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def never(*_: Any) -> Any:
            raise AssertionError

        before = {f: f.stat().st_mtime_ns for f in made.glob('*/*')}
        monkeypatch.setattr(writer.Run, 'analyse', never)
        monkeypatch.setattr(writer.analysis, 'collect', never)
        main(['report', str(checkpoint), f'--out={made}', '--max_images=8'])
        assert {f: f.stat().st_mtime_ns for f in made.glob('*/*')} == before

    def test_resumes_after_an_interruption(
        self,
        task: DeCUR,
        data: SyntheticEODataModule,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        done: list[str] = []
        analyse = writer.Run.analyse

        def note(self: writer.Run, name: str) -> AnalysisResult:
            done.append(name)
            return analyse(self, name)

        def stop(*_: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(writer.Run, 'analyse', note)
        with monkeypatch.context() as patch:
            patch.setitem(ANALYSES, 'retrieval', stop)
            with pytest.raises(KeyboardInterrupt):
                write_report(task, data, tmp_path, analyses=CHEAP)
        with monkeypatch.context() as patch:
            patch.setattr(store, 'alternative_text', stop)
            with pytest.raises(KeyboardInterrupt):
                write_report(task, data, tmp_path, analyses=CHEAP)
        assert done == ['alignment', 'retrieval', 'retrieval']
        assert {f.name for f in tmp_path.iterdir()} == {
            'alignment',
            'cache',
            store.REPORT,
        }
        assert {f.name for f in (tmp_path / 'cache').iterdir()} == {
            'embeddings.safetensors'
        }
        write_report(task, data, tmp_path, analyses=CHEAP)
        assert done[3:] == ['retrieval', 'rank']
        write_report(task, data, tmp_path, analyses=CHEAP, max_samples=6)
        assert done[5:] == CHEAP
        assert result(tmp_path, 'rank')['tables']['ranks'][0]['samples'] == 6
        with torch.no_grad():
            parameter = next(task.parameters())
            parameter += 1
            write_report(task, data, tmp_path, analyses=['rank'], max_samples=6)
            parameter -= 1
        assert done[8:] == ['rank']

    def test_resumes_a_report_with_old_markers(
        self,
        task: DeCUR,
        data: SyntheticEODataModule,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        write_report(task, data, tmp_path, analyses=['rank'])
        old = tmp_path / 'rank' / 'finding.json'
        (tmp_path / 'rank' / store.MARKER).rename(old)
        (tmp_path / store.REPORT).unlink()
        with monkeypatch.context() as patch:
            patch.setitem(ANALYSES, 'rank', lambda run: pytest.fail('run again'))
            write_report(task, data, tmp_path, analyses=['rank'])
        write_report(task, data, tmp_path, analyses=['rank'], max_samples=6)
        assert not old.exists()
        assert result(tmp_path, 'rank')['tables']['ranks'][0]['samples'] == 6


class TestFilesOfTheUser:
    def test_refuses_a_folder_with_other_files(
        self, task: DeCUR, data: SyntheticEODataModule, tmp_path: Path
    ) -> None:
        (tmp_path / 'rank').mkdir()
        notes = tmp_path / 'rank' / 'notes.txt'
        page = tmp_path / 'report.html'
        notes.write_text('mine')
        page.write_text('mine')
        with pytest.raises(
            ValueError,
            match=r"contains files such as \['rank', 'report.html'\]; choose",
        ):
            write_report(task, data, tmp_path, analyses=['rank'])
        assert notes.read_text() == page.read_text() == 'mine'
        assert not (tmp_path / store.REPORT).exists()

    def test_files_beside_those_of_an_analysis_stay(
        self, task: DeCUR, data: SyntheticEODataModule, tmp_path: Path
    ) -> None:
        write_report(task, data, tmp_path, analyses=['rank'])
        # A report of an earlier version has no mark of its own.
        (tmp_path / store.REPORT).unlink()
        folder = tmp_path / 'rank'
        (folder / 'notes.txt').write_text('mine')
        marker = json.loads((folder / store.MARKER).read_text())
        marker['tables']['older'] = []
        (folder / store.MARKER).write_text(json.dumps(marker))
        (folder / 'older.csv').write_text('of a table that is no longer made')
        write_report(task, data, tmp_path, analyses=['rank'], max_samples=6)
        assert (folder / 'notes.txt').read_text() == 'mine'
        assert not (folder / 'older.csv').exists()
        assert result(tmp_path, 'rank')['tables']['ranks'][0]['samples'] == 6


class TestContent:
    def test_explains_analyses_without_labels_or_metrics(
        self, task: DeCUR, tmp_path: Path
    ) -> None:
        names = ['probes', 'dropping', 'curves']
        page = write_report(task, PlainDataModule(), tmp_path, analyses=names)
        words = Page(page.read_text('utf-8')).words
        assert 'none; probes do not apply' in words
        assert words.count('Not computed: ') == 3
        assert 'require the metrics.csv of the fit, found none' in words

    def test_compares_a_baseline_on_the_test_split(
        self, task: DeCUR, data: SyntheticEODataModule, tmp_path: Path
    ) -> None:
        other = BarlowTwins(MODALITIES, model='test_resnet', projector=[8])
        page = write_report(
            task, data, tmp_path, baseline=other, analyses=['alignment'], split='test'
        )
        rows = result(tmp_path, 'alignment')['tables']['alignment']
        assert [r['part'] for r in rows] == ['common', 'unique', 'all', 'baseline']
        assert 'test, 12 samples' in Page(page.read_text('utf-8')).words

    def test_compares_the_joint_embedding_with_each_modality(
        self, data: SyntheticEODataModule, tmp_path: Path
    ) -> None:
        task = CoMM(
            MODALITIES, model='test_resnet', embed_dim=8, num_heads=2, projector=[8, 8]
        )
        write_report(task, data, tmp_path, analyses=CHEAP)
        rows = result(tmp_path, 'alignment')['tables']['alignment']
        pairs = ['s1 and s2', 's1 and joint', 's2 and joint']
        assert [(r['modalities'], r['part']) for r in rows] == [
            (pair, 'all') for pair in pairs
        ]

    def test_images_are_spread_over_the_split(
        self, data: SyntheticEODataModule
    ) -> None:
        batches = writer.Batches(data, 'val', 'cpu')
        whole = torch.cat([b['image_s1'] for b in batches])
        some = [b['s1'] for b in batches.images(MODALITIES, 4, 3)]
        assert [len(x) for x in some] == [3, 1]
        # Numbers 0, 3.67, 7.33 and 11.
        assert torch.cat(some).equal(whole[[0, 4, 7, 11]])
        assert whole.min() >= 0 and whole.max() <= 1


class TestErrors:
    def stop(self, *args: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main(['report', *args])
        return str(caught.value)

    def test_names_missing_files(self, checkpoint: Path, tmp_path: Path) -> None:
        absent = tmp_path / 'none.ckpt'
        said = self.stop(str(absent))
        assert said == (
            f'torchgeo-decur: checkpoint {absent} does not exist; check the path'
        )
        assert f'baseline {absent} does not exist' in self.stop(
            str(checkpoint), f'--baseline={absent}'
        )
        assert 'set the path of the fit config with --config' in self.stop(
            str(checkpoint), f'--config={absent}'
        )

    def test_refuses_a_checkpoint_of_another_model(
        self, checkpoint: Path, decur_yaml: Callable[..., Path]
    ) -> None:
        config = decur_yaml(model__init_args__projector=[8])
        said = self.stop(str(checkpoint), f'--config={config}')
        assert 'projector' in said and said.startswith('torchgeo-decur: ')

    def test_refuses_wrong_options(self, checkpoint: Path, tmp_path: Path) -> None:
        for option, message in (
            ('--analyses=[colours]', "analyses must be among ['alignment'"),
            ('--max_samples=1', 'max_samples must be at least 2, got 1'),
        ):
            said = self.stop(str(checkpoint), f'--out={tmp_path / "out"}', option)
            assert message in said
        assert not (tmp_path / 'out').exists()

    def test_task_that_is_not_self_supervised(
        self, data: SyntheticEODataModule, tmp_path: Path
    ) -> None:
        other = Classification('test_resnet', num_classes=2)
        with pytest.raises(
            ValueError, match=r'self-supervised task such as .* Classification'
        ):
            write_report(other, data, tmp_path)

    def test_refuses_an_unknown_split(
        self, task: DeCUR, data: Any, tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match=r"split must be one of .*, got 'x'"):
            write_report(task, data, tmp_path, split='x', analyses=['rank'])  # type: ignore[arg-type]
