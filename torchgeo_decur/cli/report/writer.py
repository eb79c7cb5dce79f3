"""Run the analyses of a report and store each result."""

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
from ...analysis.result import TITLES
from ...files import atomic_write, check_writable, short_hash
from ...modalities import Modality
from ...packed.dataset import Split
from ..embed.split_batches import Batches
from .page import render_page
from .store import claim, load_embeddings, load_result, save_embeddings, save_result

# Version of the stored results. Increase it to invalidate them.
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
    """Run analyses of a self-supervised task and write the results to one HTML page.

    The page ``report.html`` is self-contained. Each analysis has a folder with its
    figures as PNG and SVG, its tables as CSV, and its text and tables in ``result.json``.
    An interrupted report resumes with the missing analyses. If the checkpoint, data or
    options change, all analyses run again. Only files from an earlier report are
    replaced.

    Args:
        task: trained self-supervised task, such as ``DeCUR``.
        datamodule: datamodule for the task.
        out: report folder, which must be new, empty or from an earlier report.
        baseline: trained self-supervised task with the same modalities, such as
            ``BarlowTwins``, for comparing the alignment.
        metrics: ``metrics.csv`` of the fit.
        analyses: names of the analyses to run, from :data:`ANALYSES`, by default all.
        max_samples: maximum number of random samples for all analyses except the
            alignment, which uses the whole split.
        max_images: maximum number of images for saliency and feature maps, evenly spaced
            over the split.
        split: 'train', 'val', 'test' or 'predict'.
        device: Lightning accelerator: 'auto', 'cpu', 'gpu' or 'mps'.
        about: JSON values that identify the data.
        sources: origin of the task and the data by name, shown on the page.

    Returns:
        Path of the page.

    Raises:
        ValueError: if the task is not self-supervised, an option is invalid, or the
            folder contains files that are not from a report.
    """
    chosen = list(ANALYSES) if analyses is None else list(analyses)
    unknown = [name for name in chosen if name not in ANALYSES]
    if unknown or not chosen:
        raise ValueError(
            f'analyses must be among {list(ANALYSES)}, got {unknown or "none"}'
        )
    for name, value in (('max_samples', max_samples), ('max_images', max_images)):
        if value < 2:
            raise ValueError(f'{name} must be at least 2, got {value}')
    for model in (task, baseline):
        if model is not None and not hasattr(model, 'encode_and_project'):
            raise ValueError(
                'checkpoint must be from a self-supervised task such as '
                f'torchgeo_decur.tasks.DeCUR, got {type(model).__name__}; choose another '
                'checkpoint'
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
        f'{type(task).__name__} report', run.facts(sources or {}), results, folder
    )
    file = folder / 'report.html'
    atomic_write(file, lambda partial: partial.write_text(page, 'utf-8'))
    return file


class Run:
    """Lazily computed inputs of the analyses."""

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
        """Hash of the parameters, data and options."""
        models = [m for m in (self.task, self.baseline) if m is not None]
        metrics = self.metrics
        logged = metrics.read_bytes() if metrics and metrics.is_file() else b''
        keys = [self._key(model).encode() for model in models]
        return short_hash([*keys, str(self.max_images).encode(), logged])

    @cached_property
    def batches(self) -> Batches:
        """Batches of the split to analyze."""
        return Batches(self.datamodule, self.split, self.device)

    @cached_property
    def embeddings(self) -> Embeddings:
        """Embeddings of the task."""
        return self._embed(self.task, 'embeddings')

    @cached_property
    def other(self) -> Embeddings | None:
        """Embeddings of the baseline, if given."""
        return self._embed(self.baseline, 'baseline') if self.baseline else None

    @property
    def records(self) -> dict[str, Modality]:
        """Metadata of the task's modalities from the datamodule."""
        known: dict[str, Modality] = getattr(self.datamodule, 'modalities', {})
        modalities = self.task.hparams['modalities']
        if not set(modalities) <= set(known):
            raise NotApplicable(
                f'datamodule must define the modalities {list(modalities)}, got '
                f'{type(self.datamodule).__name__}; use the datamodule of the fit'
            )
        return {m: known[m] for m in modalities}

    @property
    def model(self) -> Pretrained:
        """Task on the device of the images."""
        return cast(Pretrained, self.task.to(self.batches.device))

    def images(self, batch_size: int = 32) -> Iterator[dict[str, Tensor]]:
        """Iterate over batches of images from evenly spaced samples.

        Raises:
            NotApplicable: if a modality contains embeddings instead of images.
        """
        modalities = dict(self.task.hparams['modalities'])
        kinds = {m: record.kind for m, record in self.records.items()}
        if vectors := [m for m, kind in kinds.items() if kind == 'embedding']:
            raise NotApplicable(
                f'the analysis requires images, but {vectors} contain embeddings'
            )
        return self.batches.images(modalities, self.max_images, batch_size)

    def analyse(self, name: str) -> AnalysisResult:
        """Run an analysis by name; if it does not apply, the result states why."""
        try:
            return ANALYSES[name](self)
        except (NotApplicable, ImportError) as error:
            return AnalysisResult(
                name, TITLES[name], f'Not computed: {str(error).rstrip(".")}.'
            )

    def facts(self, sources: Mapping[str, str]) -> dict[str, str]:
        """Collect the properties that the page shows below its title.

        Args:
            sources: origin of the task and the data by name.

        Returns:
            Properties by name.
        """
        e = self.embeddings
        dims = {p: s.stop - s.start for p, s in e.parts().items()}
        parts = ', '.join(f'{number} {part}' for part, number in dims.items())
        kept = len(next(iter(e.z.values())))
        subset = (
            '' if kept == e.number else f'; {kept} for analyses other than alignment'
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
                f'{m} ({n} {"band" if n == 1 else "bands"})'
                for m, n in self.task.hparams['modalities'].items()
            ),
            **({'Samples with each modality': _subsets(e)} if e.available else {}),
            'Dimensions': parts,
            'Labels': ', '.join(e.labels) or 'none; probes do not apply',
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
        raise NotApplicable(
            'training curves require the metrics.csv of the fit, found none; add a '
            'CSVLogger to the fit'
        )
    return analysis.training_curves(run.metrics)


#: The analyses by name, in the order of the page.
ANALYSES: dict[str, Analysis] = {
    'alignment': lambda run: analysis.alignment_histogram(run.embeddings, run.other),
    'dimensions': lambda run: analysis.dimension_map(run.embeddings),
    'probes': lambda run: analysis.probe_parts(run.embeddings),
    'dropping': lambda run: analysis.dropped_dimensions(run.embeddings),
    'retrieval': lambda run: analysis.cross_modal_retrieval(run.embeddings),
    'value': lambda run: analysis.modality_values(run.embeddings),
    'shared': lambda run: analysis.shared_directions_of(run.embeddings),
    'rank': lambda run: analysis.effective_ranks(run.embeddings),
    'spatial_saliency': lambda run: _saliency(run, analysis.spatial_saliency),
    'spectral_saliency': lambda run: _saliency(run, analysis.spectral_saliency),
    'feature_maps': lambda run: analysis.feature_maps(
        run.model, run.images(), run.records
    ),
    'curves': _curves,
}


def _subsets(e: Embeddings) -> str:
    """Format the sample counts for each modality and for all modalities together."""
    kept = len(next(iter(e.z.values())))
    counts = {m: int(there.sum()) for m, there in e.available.items()}
    complete = len(next(iter(e.having(*e.modalities).z.values())))
    text = ', '.join(f'{m} {count}' for m, count in counts.items())
    return f'{text}; all modalities {complete} (of {kept})'


def _version() -> str:
    from importlib.metadata import version

    return version('torchgeo-decur')
