"""Command that writes a report for a checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from ...packed.dataset import Split
from ..embed import load_run
from .writer import write_report


def report_checkpoint(
    checkpoint: Path,
    config: Path | None = None,
    out: Path = Path('report'),
    baseline: Path | None = None,
    baseline_config: Path | None = None,
    analyses: Sequence[str] | None = None,
    max_samples: int = 4096,
    max_images: int = 256,
    split: Split = 'val',
    batch_size: int | None = None,
    device: str = 'auto',
) -> Path:
    """Analyze a checkpoint and write a page of figures and tables.

    Run an interrupted command again to resume.

    Args:
        checkpoint: checkpoint of a self-supervised task.
        config: config with model and data, by default the config.yaml of the fit.
        out: output folder for the report.
        baseline: checkpoint for comparing the alignment, such as one trained with Barlow
            Twins.
        baseline_config: config of the baseline, by default the config.yaml of its fit
            or, if absent, the config of the checkpoint.
        analyses: names of the analyses to run, by default all.
        max_samples: maximum number of random samples for all analyses except the
            alignment, which uses the whole split.
        max_images: maximum number of images for saliency and feature maps, evenly spaced
            over the split.
        split: train, val, test or predict.
        batch_size: samples per batch, by default the batch size of the data.
        device: auto, cpu, gpu or mps.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a checkpoint does not match its config, or an option is invalid.
    """
    for name, file in (('checkpoint', checkpoint), ('baseline', baseline)):
        if file is not None and not file.is_file():
            raise FileNotFoundError(f'{name} {file} does not exist; check the path')
    beside = checkpoint.parent.parent
    chosen = config or beside / 'config.yaml'
    if not chosen.is_file():
        raise FileNotFoundError(
            f'config {chosen} does not exist; set the path of the fit config with --config'
        )
    task, datamodule, about = load_run(chosen, checkpoint, batch_size=batch_size)
    sources = {'Checkpoint': str(checkpoint), 'Config': str(chosen)}
    other = None
    if baseline is not None:
        left = baseline_config or baseline.parent.parent / 'config.yaml'
        own = left if left.is_file() or baseline_config else chosen
        other, _, _ = load_run(own, baseline)
        sources['Baseline'] = f'{type(other).__name__}, {baseline}'
    return write_report(
        task,
        datamodule,
        out,
        baseline=other,
        metrics=beside / 'metrics.csv',
        analyses=analyses,
        max_samples=max_samples,
        max_images=max_images,
        split=split,
        device=device,
        about=about,
        sources=sources,
    )
