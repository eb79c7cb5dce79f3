"""The analyses of a report, in order, each kept once it is done."""

import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
import torchgeo
from torch import Tensor, nn
from torchgeo.datamodules import BaseDataModule
from torchgeo.tasks import BaseTask
from tqdm import tqdm

from ... import analysis
from ...analysis import AnalysisResult, Embeddings, NotApplicable, Pretrained
from ...files import atomic_write, check_writable, short_hash
from ...modalities import Modality
from ...packed.dataset import Split
from ..embed.split_batches import Batches
from .page import render_page
from .store import claim, load_embeddings, load_result, save_embeddings, save_result

# What is asked of a file of an earlier version is done again.
_FORMAT = 1


def write_report(
    task: BaseTask,
    datamodule: BaseDataModule,
    out: str | Path,
    baseline: BaseTask | None = None,
    metrics: str | Path | None = None,
    analyses: Sequence[str] | None = None,
    max_samples: int = 4096,
    max_images: int = 256,
    split: Split = 'val',
    device: str = 'auto',
    about: Mapping[str, Any] | None = None,
    sources: Mapping[str, str] | None = None,
) -> Path:
    """Run the analyses of a self-supervised task and write them on one page.

    In the folder are ``report.html``, a page that needs no other file and no network, and
    for each analysis a folder of its figures as PNG and SVG, its tables as CSV, and
    ``result.json`` with its words and numbers, which is there once the analysis is
    done. A report that was stopped and is started again goes on with what is missing;
    with another checkpoint, other data or options it begins anew. Only files of an
    earlier report are replaced.

    Args:
        task: a self-supervised task, such as ``DeCUR``, with its trained parameters.
        datamodule: its data.
        out: folder of the report: a new or empty one, or that of an earlier report.
        baseline: another self-supervised task of the same modalities, such as
            ``BarlowTwins``, to compare the alignment with.
        metrics: ``metrics.csv`` of the fit.
        analyses: names of those to run; by default all of :data:`ANALYSES`.
        max_samples: samples that are kept for all but the alignment, a random subset.
        max_images: images for saliency and feature maps, spread evenly over the split.
        split: 'train', 'val', 'test' or 'predict'.
        device: accelerator of Lightning: 'auto', 'cpu', 'gpu' or 'mps'.
        about: plain values that tell the data of this report from others.
        sources: what the page shall say of where task and data are from, by name.

    Returns:
        The page.

    Raises:
        ValueError: if the task is not self-supervised, an option is not valid, or the
            folder holds files that no report wrote.
    """
    chosen = list(ANALYSES) if analyses is None else list(analyses)
    unknown = [name for name in chosen if name not in ANALYSES]
    if unknown or not chosen:
        raise ValueError(
            f'analyses must be some of {list(ANALYSES)}, got {unknown or "none"}'
        )
    for name, value in (('max_samples', max_samples), ('max_images', max_images)):
        if value < 2:
            raise ValueError(f'{name} must be at least 2, got {value}')
    for model in (task, baseline):
        if model is not None and not hasattr(model, 'encode_and_project'):
            raise ValueError(
                'the checkpoint must be of a self-supervised task, such as '
                f'torchgeo_decur.tasks.DeCUR, got {type(model).__name__}'
            )
    folder = Path(out)
    check_writable(folder)
    claim(folder, ANALYSES)
    says = {'split': split, 'max_samples': max_samples, 'about': dict(about or {})}
    run = Run(task, datamodule, baseline, folder, split, device, says)
    run.metrics, run.max_images = Path(metrics) if metrics else None, max_images
    results = []
    bar = tqdm(chosen, desc='analyses')
    for name in bar:
        bar.set_postfix_str(name)
        result = load_result(folder / name, run.key)
        if result is None:
            save_result(folder / name, run.analyse(name), run.key)
            result = load_result(folder / name, run.key)
        results.append(cast(dict[str, Any], result))
    page = render_page(
        f'What {type(task).__name__} learned', run.facts(sources or {}), results, folder
    )
    file = folder / 'report.html'
    atomic_write(file, lambda partial: partial.write_text(page, 'utf-8'))
    return file


class Run:
    """What analyses ask for; nothing is loaded before it is asked for."""

    metrics: Path | None = None
    max_images: int = 2

    def __init__(
        self,
        task: BaseTask,
        datamodule: BaseDataModule,
        baseline: BaseTask | None,
        folder: Path,
        split: Split,
        device: str,
        says: Mapping[str, Any],
    ) -> None:
        """Initialize a new Run instance."""
        self.task, self.datamodule, self.baseline = task, datamodule, baseline
        self.folder, self.split, self.device, self.says = folder, split, device, says

    @cached_property
    def key(self) -> str:
        """Tells this report from others: parameters, data and options."""
        models = [m for m in (self.task, self.baseline) if m is not None]
        metrics = self.metrics
        logged = metrics.read_bytes() if metrics and metrics.is_file() else b''
        keys = [self._key(model).encode() for model in models]
        return short_hash([*keys, str(self.max_images).encode(), logged])

    @cached_property
    def batches(self) -> Batches:
        """The data."""
        return Batches(self.datamodule, self.split, self.device)

    @cached_property
    def embeddings(self) -> Embeddings:
        """Embeddings of the task."""
        return self._embed(self.task, 'embeddings')

    @cached_property
    def other(self) -> Embeddings | None:
        """Embeddings of the baseline, if there is one."""
        return self._embed(self.baseline, 'baseline') if self.baseline else None

    @property
    def records(self) -> dict[str, Modality]:
        """What the modalities are."""
        known: dict[str, Modality] = getattr(self.datamodule, 'modalities', {})
        modalities = self.task.hparams['modalities']
        if not set(modalities) <= set(known):
            raise NotApplicable(
                f'the datamodule must say what {list(modalities)} are (bands, kind), got '
                f'{type(self.datamodule).__name__}'
            )
        return {m: known[m] for m in modalities}

    @property
    def model(self) -> Pretrained:
        """The task, where the images are."""
        return cast(Pretrained, self.task.to(self.batches.device))

    def images(self, batch_size: int = 32) -> Iterator[dict[str, Tensor]]:
        """Images of some samples."""
        modalities = dict(self.task.hparams['modalities'])
        return self.batches.images(modalities, self.max_images, batch_size)

    def analyse(self, name: str) -> AnalysisResult:
        """Run an analysis.

        Args:
            name: its name.

        Returns:
            What was found, or why it was left out.
        """
        title, analyse = ANALYSES[name]
        try:
            return analyse(self)
        except (NotApplicable, ImportError) as error:
            return AnalysisResult(name, title, f'Left out: {str(error).rstrip(".")}.')

    def facts(self, sources: Mapping[str, str]) -> dict[str, str]:
        """Say what the report is of.

        Args:
            sources: where task and data are from.

        Returns:
            Facts by name.
        """
        e = self.embeddings
        dims = {p: s.stop - s.start for p, s in e.parts().items()}
        parts = ', '.join(f'{number} {part}' for part, number in dims.items())
        kept = len(next(iter(e.z.values())))
        subset = (
            '' if kept == e.number else f'; {kept} of them for all but the alignment'
        )
        versions = {
            'torchgeo-decur': _version(),
            'torchgeo': torchgeo.__version__,
            'torch': torch.__version__,
            'Python': platform.python_version(),
        }
        return {
            **sources,
            'Task': type(self.task).__name__,
            'Modalities': ', '.join(
                f'{m} ({n} bands)' for m, n in self.task.hparams['modalities'].items()
            ),
            'Dimensions': parts,
            'Labels': ', '.join(e.labels) or 'none: probes are left out',
            'Split': f'{self.split}, {e.number} samples{subset}',
            'Versions': ', '.join(f'{name} {v}' for name, v in versions.items()),
            'Date': f'{datetime.now(UTC):%Y-%m-%d %H:%M} UTC',
        }

    def _key(self, model: nn.Module) -> str:
        says = json.dumps({'format': _FORMAT, **self.says}, sort_keys=True, default=str)
        weights = (
            v.detach().float().cpu().numpy().tobytes()
            for k, v in model.state_dict().items()
            if not k.startswith('augmentations.')
        )
        return short_hash([says.encode(), *weights])

    def _embed(self, task: BaseTask, name: str) -> Embeddings:
        key, file = self._key(task), self.folder / 'cache' / f'{name}.safetensors'
        found = load_embeddings(file, key)
        if found is None:
            model = cast(Pretrained, task.to(self.batches.device))
            found = analysis.collect(model, self.batches, self.says['max_samples'])
            save_embeddings(file, found, key)
        return found


type Analysis = Callable[[Run], AnalysisResult]


def _saliency(run: Run, analyse: Callable[..., AnalysisResult]) -> AnalysisResult:
    common_dim: int | None = getattr(run.task, 'common_dim', None)
    return analyse(run.model, run.images(), run.records, common_dim, run.max_images)


def _curves(run: Run) -> AnalysisResult:
    if run.metrics is None:
        raise NotApplicable('no metrics.csv of the fit was given')
    return analysis.training_curves(run.metrics)


#: The analyses by name, in the order of the page, each with its title.
ANALYSES: dict[str, tuple[str, Analysis]] = {
    'alignment': (
        'Alignment of embedding dimensions',
        lambda run: analysis.alignment_histogram(run.embeddings, run.other),
    ),
    'dimensions': (
        'Map of embedding dimensions',
        lambda run: analysis.dimension_map(run.embeddings),
    ),
    'probes': (
        'What is where: probes',
        lambda run: analysis.probe_parts(run.embeddings),
    ),
    'dropping': (
        'Without the most aligned dimensions',
        lambda run: analysis.dropped_dimensions(run.embeddings),
    ),
    'retrieval': (
        'Cross-modal retrieval',
        lambda run: analysis.cross_modal_retrieval(run.embeddings),
    ),
    'rank': ('Effective rank', lambda run: analysis.effective_ranks(run.embeddings)),
    'spatial_saliency': (
        'Where common and unique embeddings look',
        lambda run: _saliency(run, analysis.spatial_saliency),
    ),
    'spectral_saliency': (
        'Which bands common and unique embeddings rest on',
        lambda run: _saliency(run, analysis.spectral_saliency),
    ),
    'feature_maps': (
        'What the last feature map shows',
        lambda run: analysis.feature_maps(run.model, run.images(), run.records),
    ),
    'curves': ('Training curves', _curves),
}


def _version() -> str:
    from importlib.metadata import version

    return version('torchgeo-decur')
