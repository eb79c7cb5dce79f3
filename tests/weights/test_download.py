import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from torchgeo_decur.weights.download import cached_file, checksum_file, fetch
from torchgeo_decur.weights.enums import WEIGHTS


@pytest.fixture
def server(tmp_path: Path, cache: Path) -> Path:
    folder = tmp_path / 'server'
    folder.mkdir()
    return folder


def write(folder: Path, content: bytes, name: str = 'encoder.pth') -> str:
    (folder / name).write_bytes(content)
    return (folder / name).as_uri()


def name_with_hash(content: bytes) -> str:
    return f'encoder-{hashlib.sha256(content).hexdigest()[:8]}.pth'


def refuse(file: Path) -> bytes:
    raise ValueError(f'{len(file.read_bytes())} bytes that are no checkpoint')


def test_downloads_once_then_reads_the_cache(server: Path, cache: Path) -> None:
    url = write(server, b'first')
    assert fetch(url, Path.read_bytes) == b'first'
    assert sorted(f.name for f in cache.iterdir()) == [
        'encoder.pth',
        'encoder.pth.sha256',
    ]
    (server / 'encoder.pth').unlink()
    assert fetch(url, Path.read_bytes, progress=False) == b'first'


def test_records_the_checksum_like_sha256sum(server: Path) -> None:
    url = write(server, b'first')
    fetch(url, Path.read_bytes)
    digest = hashlib.sha256(b'first').hexdigest()
    assert checksum_file(url).read_text() == f'{digest}  encoder.pth\n'


def test_records_a_file_put_there_by_hand(server: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / 'encoder.pth').write_bytes(b'by hand')
    assert fetch('https://nowhere.invalid/encoder.pth', Path.read_bytes) == b'by hand'
    assert (cache / 'encoder.pth.sha256').exists()


@pytest.mark.parametrize('changed', [b'fir', b'firsT', b''])
def test_rejects_a_file_altered_after_the_first_use(
    server: Path, changed: bytes
) -> None:
    url = write(server, b'first')
    fetch(url, Path.read_bytes)
    cached_file(url).write_bytes(changed)
    message = r'encoder\.pth: expected .* as recorded in .*encoder\.pth\.sha256, found'
    with pytest.raises(ValueError, match=message):
        fetch(url, Path.read_bytes)
    assert not cached_file(url).exists()
    # The record stays, and a new download has to have the same hash.
    assert fetch(url, Path.read_bytes) == b'first'


def test_rejects_another_file_at_the_same_address(server: Path, cache: Path) -> None:
    url = write(server, b'first')
    fetch(url, Path.read_bytes)
    cached_file(url).unlink()
    write(server, b'second')
    message = r'If the publisher replaced it, delete encoder\.pth\.sha256$'
    with pytest.raises(ValueError, match=message):
        fetch(url, Path.read_bytes)
    assert [f.name for f in cache.iterdir()] == ['encoder.pth.sha256']


def test_accepts_the_hash_in_the_name(server: Path, cache: Path) -> None:
    name = name_with_hash(b'first')
    url = write(server, b'first', name)
    assert fetch(url, Path.read_bytes) == b'first'
    assert [f.name for f in cache.iterdir()] == [name]


@pytest.mark.parametrize('where', ['server', 'cache'])
def test_rejects_a_wrong_hash_in_the_name(
    server: Path, cache: Path, where: str
) -> None:
    name = name_with_hash(b'first')
    cache.mkdir(parents=True)
    if where == 'cache':
        (cache / name).write_bytes(b'other')
    url = write(server, b'other', name)
    with pytest.raises(ValueError, match=r'truncated or altered and has been removed$'):
        fetch(url, Path.read_bytes)
    assert list(cache.iterdir()) == []


def test_removes_refused_content(server: Path, cache: Path) -> None:
    url = write(server, b'<html>')
    with pytest.raises(ValueError, match=r'^6 bytes .*; it has been removed$'):
        fetch(url, refuse)
    assert list(cache.iterdir()) == []


def test_keeps_content_that_was_valid_once(server: Path, cache: Path) -> None:
    url = write(server, b'first')
    fetch(url, Path.read_bytes)
    with pytest.raises(ValueError, match=r'^5 bytes that are no checkpoint$'):
        fetch(url, refuse)
    assert cached_file(url).exists()


@pytest.mark.parametrize('scheme', ['file:///nowhere', 'http://127.0.0.1:9'])
def test_explains_a_missing_network(cache: Path, scheme: str) -> None:
    message = (
        rf'^{scheme}/encoder\.pth is not in the cache and cannot be downloaded .*'
        rf'copy the file to {re.escape(str(cache / "encoder.pth"))}$'
    )
    with pytest.raises(FileNotFoundError, match=message):
        fetch(f'{scheme}/encoder.pth', Path.read_bytes)
    assert list(cache.iterdir()) == []


def test_explains_a_cache_that_cannot_be_created(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'taken').touch()
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'taken'))
    with pytest.raises(FileNotFoundError, match=r'environment variable TORCH_HOME to'):
        fetch(write(server, b'first'), Path.read_bytes)


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, bytes], str]]:
    """Return a function that leaves one file in a cache that cannot be written."""
    folder = Path(tempfile.mkdtemp())
    (folder / 'checkpoints').mkdir()
    monkeypatch.setattr(torch.hub, '_hub_dir', str(folder))
    user = os.geteuid()

    def leave(name: str, content: bytes) -> str:
        (folder / 'checkpoints' / name).write_bytes(content)
        for place in (folder / 'checkpoints', folder):
            place.chmod(0o555)
        if user == 0:  # may write anywhere
            os.seteuid(65534)
        return f'https://nowhere.invalid/{name}'

    yield leave
    os.seteuid(user)
    (folder / 'checkpoints').chmod(0o755)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_reads_a_read_only_cache(read_only: Callable[[str, bytes], str]) -> None:
    url = read_only('encoder.pth', b'first')
    assert fetch(url, Path.read_bytes) == b'first'
    assert not checksum_file(url).exists()


def test_explains_a_read_only_cache_without_the_file(
    read_only: Callable[[str, bytes], str],
) -> None:
    read_only('encoder.pth', b'first')
    message = r'^https://nowhere\.invalid/b\.pth is not in the cache .* TORCH_HOME to a writable folder$'
    with pytest.raises(FileNotFoundError, match=message):
        fetch('https://nowhere.invalid/b.pth', Path.read_bytes)


def test_rejects_a_wrong_file_in_a_read_only_cache(
    read_only: Callable[[str, bytes], str],
) -> None:
    url = read_only(name_with_hash(b'first'), b'other')
    message = (
        r'expected a file with SHA-256 .* cannot be removed \(.*\); delete /.*pth$'
    )
    with pytest.raises(ValueError, match=message):
        fetch(url, Path.read_bytes)


def test_keeps_refused_content_in_a_read_only_cache(
    read_only: Callable[[str, bytes], str],
) -> None:
    url = read_only('encoder.pth', b'<html>')
    with pytest.raises(ValueError, match=r'^6 bytes .* it cannot be removed .*pth$'):
        fetch(url, refuse)


def test_page_names_the_pinned_files() -> None:
    entries = {e: e.urls for enum in WEIGHTS for e in enum}
    commit, digest = r'/resolve/[0-9a-f]{40}/', r'-[0-9a-f]{8,64}\.pth$'
    for urls in entries.values():
        for url in urls:
            assert bool(re.search(commit, url)) == bool(re.search(digest, url))
    pinned = [
        e for e, urls in entries.items() if all(re.search(commit, u) for u in urls)
    ]
    page = (Path(__file__).parents[2] / 'docs' / 'weights.md').read_text()
    (paragraph,) = re.findall(r'- \*\*Pinned files\*\* .*?(?=\n- )', page, re.S)
    assert set(re.findall(r'`(\w+_DECUR)`', paragraph)) == {e.name for e in pinned}
    assert {type(e).__name__ for e in pinned} == {'ResNet50_Weights'}
