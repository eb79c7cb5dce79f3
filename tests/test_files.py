import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchgeo_decur.files import atomic_write, atomic_write_all, checksum_of, short_hash


@pytest.fixture(params=[0o022, 0o002, 0o077])
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    """Return the mode of new files under a umask."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def mode_of(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


class TestAtomicWrite:
    def test_creates_file_and_folder(self, tmp_path: Path) -> None:
        file = tmp_path / 'new' / 'a.txt'
        for text in ('first', 'second'):
            atomic_write(file, lambda partial, text=text: partial.write_text(text))
            assert file.read_text() == text
            assert list(file.parent.iterdir()) == [file]

    @pytest.mark.parametrize('shared', [False, True])
    @pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
    def test_failure_keeps_the_old_file(
        self, tmp_path: Path, shared: bool, error: type[BaseException]
    ) -> None:
        file = tmp_path / 'a.txt'
        file.write_text('old')

        def write(partial: Path) -> None:
            partial.write_text('ne')
            raise error

        with pytest.raises(error):
            atomic_write(file, write, shared)
        assert file.read_text() == 'old'
        assert list(tmp_path.iterdir()) == [file]

    def test_respects_the_umask(self, tmp_path: Path, mode: int) -> None:
        def own(partial: Path) -> None:
            # As safetensors does: another file, that its owner alone may read.
            other = partial.with_name('other')
            other.touch(0o600)
            other.replace(partial)

        for write in (own, Path.touch):
            file = tmp_path / 'a.bin'
            atomic_write(file, write)
            assert mode_of(file) == mode

    def test_ignores_the_temporary_file_of_a_killed_process(
        self, tmp_path: Path
    ) -> None:
        file, left = tmp_path / 'a.txt', tmp_path / '.a.txt.partial'
        left.write_text('much longer than the new one')
        left.chmod(0o400)
        atomic_write(file, lambda partial: partial.write_text('new'))
        assert file.read_text() == 'new'
        assert mode_of(file) != 0o400
        assert list(tmp_path.iterdir()) == [file]

    def test_writes_all_files_or_none(self, tmp_path: Path) -> None:
        files = [tmp_path / 'a.txt', tmp_path / 'b.txt']

        def fail(partial: Path) -> None:
            raise OSError(28, 'No space left on device')

        with pytest.raises(OSError, match='No space'):
            atomic_write_all({files[0]: Path.touch, files[1]: fail})
        assert list(tmp_path.iterdir()) == []
        atomic_write_all(dict.fromkeys(files, Path.touch))
        assert sorted(tmp_path.iterdir()) == files

    def test_processes_have_their_own_temporary_files(self, tmp_path: Path) -> None:
        file = tmp_path / 'a.txt'

        def write(partial: Path) -> None:
            atomic_write(file, lambda other: other.write_text('other'), shared=True)
            partial.write_text('own')

        atomic_write(file, write, shared=True)
        assert file.read_text() == 'own'
        assert list(tmp_path.iterdir()) == [file]


def test_short_hash_begins_the_sha256(tmp_path: Path) -> None:
    file = tmp_path / 'a'
    file.write_bytes(b'abc')
    # The test vector of FIPS 180-2.
    expected = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
    assert checksum_of(file) == expected
    assert short_hash([b'a', b'bc']) == short_hash([b'abc']) == expected[:16]
