"""A report of a checkpoint, from the files that a fit left."""

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
    """Write what a checkpoint has learned on one page, with figures and numbers.

    A report that was stopped goes on where it stood.

    Args:
        checkpoint: checkpoint of a self-supervised task.
        config: config of the fit; its model and data count. By default the config.yaml
            that the fit left.
        out: folder of the report.
        baseline: another checkpoint, such as of Barlow Twins, to compare the alignment
            with.
        baseline_config: config of its fit; by default the config.yaml that the fit left,
            or else that of the checkpoint.
        analyses: names of those to run; all by default.
        max_samples: samples that are kept for all but the alignment, a random subset.
        max_images: images for saliency and feature maps, spread over the split.
        split: train, val, test or predict.
        batch_size: samples of a batch; by default that of the data.
        device: auto, cpu, gpu or mps.

    Returns:
        The page.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a checkpoint is not of the model of its config, or an option is not
            valid.
    """
    for name, file in (('checkpoint', checkpoint), ('baseline', baseline)):
        if file is not None and not file.is_file():
            raise FileNotFoundError(f'{name} must be a file, but there is no {file}')
    beside = checkpoint.parent.parent
    chosen = config or beside / 'config.yaml'
    if not chosen.is_file():
        raise FileNotFoundError(
            f'config must be a file, but there is no {chosen}; give the config of the fit '
            'with --config'
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
