"""Fixtures and options of all tests."""

import csv
import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rasterio._env import del_gdal_config

ROOT = Path(__file__).parents[1]

os.environ['MPLBACKEND'] = 'Agg'
# Tests run in a process a core; it counts for them and for the commands they start.
os.environ.setdefault('OMP_NUM_THREADS', '1')
# Lightning's command line calls what newer jsonargparse calls deprecated.
os.environ['JSONARGPARSE_DEPRECATION_WARNINGS'] = 'off'


# Raised by old versions about what newer ones of other packages call deprecated.
OLD_WARNINGS = [
    # matplotlib before 3.10.7, with pyparsing 3.3, for names of functions and arguments
    "ignore:'\\w+' deprecated - use '\\w+':DeprecationWarning",
    "ignore:'\\w+' argument is deprecated, use '\\w+':DeprecationWarning",
    # rasterio before 1.5.2, with affine 3
    'ignore:Use `@` matmul instead:PendingDeprecationWarning',
    # tqdm before 4.66.2, with Python 3.12
    'ignore:datetime.datetime.utcfromtimestamp:DeprecationWarning',
    # timm before 1.0.25, with torch 2.6
    'ignore:torch.utils.checkpoint. the use_reentrant parameter:UserWarning',
    # torch 2.6, where it compiles a function with a gradient of its own
    'ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning',
    # Lightning before the one that wrote tests/data/before_layout
    'ignore:The loaded checkpoint was produced with Lightning:UserWarning',
    # pyproj before 3.8, with numpy 2
    'ignore:Conversion of an array with ndim > 0 to a scalar:DeprecationWarning',
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the job that runs the lowest versions."""
    parser.addoption(
        '--lowest', action='store_true', help='ignore warnings of old versions'
    )


def pytest_configure(config: pytest.Config) -> None:
    """Ignore warnings of old versions by name, if asked."""
    for line in OLD_WARNINGS if config.getoption('--lowest') else []:
        config.addinivalue_line('filterwarnings', line)


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    """Close the figures of a test."""
    yield
    if plt := sys.modules.get('matplotlib.pyplot'):
        plt.close('all')


@pytest.fixture(autouse=True)
def no_global_seed() -> Iterator[None]:
    """Reset the seed of ``seed_everything``, which later datamodules would use."""
    os.environ.pop('PL_GLOBAL_SEED', None)
    yield
    os.environ.pop('PL_GLOBAL_SEED', None)


@pytest.fixture(scope='session')
def project() -> dict[str, Any]:
    """Return the project table of pyproject.toml."""
    content = tomllib.loads((ROOT / 'pyproject.toml').read_text())
    found: dict[str, Any] = content['project']
    return found


@pytest.fixture(scope='session')
def decur_yaml(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write tests/conf/decur.yaml with a separate folder and dotted options."""

    def write(**overrides: Any) -> Path:
        folder = tmp_path_factory.mktemp('decur')
        text = (Path(__file__).parent / 'conf' / 'decur.yaml').read_text()
        conf = yaml.safe_load(text.replace('OUTPUT', str(folder)))
        for key, value in overrides.items():
            *parents, name = key.split('__')
            node = conf
            for parent in parents:
                node = node[parent]
            node[name] = value
        path = folder / 'conf.yaml'
        path.write_text(yaml.safe_dump(conf))
        return path

    return write


@pytest.fixture(scope='session')
def torchgeo() -> Callable[..., None]:
    """Return the command `torchgeo` in this process, which restores the environment."""
    from torchgeo.main import main

    def run(*args: object) -> None:
        # It sets options of GDAL in the environment, which other tests must not see.
        before, argv = dict(os.environ), sys.argv
        sys.argv = ['torchgeo']
        try:
            main([str(arg) for arg in args])
        finally:
            sys.argv = argv
            # rasterio keeps options that it finds in the environment.
            for name in os.environ.keys() - before:
                del_gdal_config(name)
            os.environ.clear()
            os.environ.update(before)

    return run


@pytest.fixture(scope='session')
def fitted(torchgeo: Callable[..., None], decur_yaml: Callable[..., Path]) -> Path:
    """Return the folder of a small DeCUR fit: metrics.csv, probe.*, encoders/*."""
    path = decur_yaml()
    torchgeo('fit', '--config', path)
    return path.parent / 'run'


@pytest.fixture(scope='session')
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 32 + 24 packed scenes of two dates, in shards of 5."""
    from torchgeo_decur.datamodules import SyntheticEODataModule
    from torchgeo_decur.packed import pack_datamodule

    folder = tmp_path_factory.mktemp('packed') / 'raw'
    datamodule = SyntheticEODataModule(length=32, val_length=24, size=32, num_dates=2)
    pack_datamodule(datamodule, folder, workers=0, shard_size=5, progress=False)
    return folder


class Runner:
    """Command `torchgeo` on a file of tests/conf, with one folder per run."""

    def __init__(self, torchgeo: Callable[..., None], folder: Path, name: str) -> None:
        self.torchgeo, self.folder = torchgeo, folder
        self.text = (
            (Path(__file__).parent / 'conf' / name)
            .read_text()
            .replace('OUTPUT', str(folder))
        )
        self.checkpoint: Path | None = None
        self.runs = 0

    def __call__(self, command: str, **options: Any) -> dict[str, float]:
        """Run a command with options of the task, and return its last metrics."""
        conf = yaml.safe_load(self.text)
        conf['model']['init_args'].update(options)
        run = f'run{self.runs}'
        self.runs += 1
        conf['trainer']['logger']['init_args']['version'] = run
        path = self.folder / f'{run}.yaml'
        path.write_text(yaml.safe_dump(conf))
        tail = ['--ckpt_path', self.checkpoint] if self.checkpoint else []
        self.torchgeo(command, '--config', path, *tail)
        if command == 'fit':
            (self.checkpoint,) = (self.folder / run / 'checkpoints').glob('*.ckpt')
        metrics = self.folder / run / 'metrics.csv'
        if not metrics.exists():
            return {}
        with metrics.open() as file:
            rows = list(csv.DictReader(file))
        return {k: float(v) for r in rows for k, v in r.items() if v}


@pytest.fixture
def runner(torchgeo: Callable[..., None], tmp_path: Path) -> Callable[[str], Runner]:
    """Return a function that creates a Runner of a file of tests/conf."""
    return lambda name: Runner(torchgeo, tmp_path, name)
