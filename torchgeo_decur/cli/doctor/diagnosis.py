"""Check the data of a config and collect findings, tables and properties."""

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ...config import build, override_options, read_config
from ...datamodules import MultimodalDataModule
from ...datasets.base import FileDataset
from ...datasets.rasters.join import JoinedRasters
from ..cost_estimate import estimate_cost
from .dates import check_dates
from .findings import Finding, Level, count, rank, some
from .grids import check_grids, check_leaves, check_sizes
from .labels import check_labels, count_classes
from .observations import Observation, Observed
from .overlaps import check_duplicates, check_names, check_places
from .registration import check_shifts
from .values import check_copied_images, check_values, summarize_values

#: Stage of ``setup`` that creates each split.
_STAGES = {'train': 'fit', 'val': 'validate', 'test': 'test'}


@dataclass(frozen=True)
class Diagnosis:
    """Result of a data check.

    Args:
        findings: findings, most severe first.
        tables: rows of each table, by title.
        facts: properties of the data and of the check, by name.
    """

    findings: list[Finding]
    tables: dict[str, list[dict[str, Any]]]
    facts: dict[str, str]

    @property
    def worst(self) -> Level | None:
        """Level of the most severe finding, or None without findings."""
        return self.findings[0].level if self.findings else None


def examine(
    config: Path,
    max_samples: int = 1000,
    workers: int | None = None,
    overlays: Sequence[Path] = (),
    data: Mapping[str, Any] | None = None,
) -> Diagnosis:
    """Check the data of a config.

    Args:
        config: ``torchgeo`` config with ``data``.
        max_samples: maximum number of samples to read from all splits together.
        workers: number of worker processes, by default one per core.
        overlays: configs that override parts of the first config.
        data: datamodule options that override the configs.

    Returns:
        Findings, tables and properties of the data.

    Raises:
        FileNotFoundError: if the config does not exist.
        ValueError: if the config has no valid datamodule, or an option is invalid.
    """
    if max_samples < 1:
        raise ValueError(f'max_samples must be positive, got {max_samples}')
    read = read_config(config, ['data'], overlays, ['model'])
    datamodule = build({'data': override_options(read['data'], data)}, config)['data']
    options = dict(read.get('model', {}).get('init_args') or {})
    if not isinstance(datamodule, MultimodalDataModule):
        raise ValueError(
            f'{config}: expected a MultimodalDataModule from torchgeo_decur.datamodules '
            f'in data, found {type(datamodule).__name__}; change its class_path'
        )
    datasets, findings = _open(datamodule)
    files = [config, *overlays]
    facts = {'Config': ', '.join(map(str, files)), 'Data': type(datamodule).__name__}
    if 'train' not in datasets:
        return Diagnosis(rank(findings), {}, facts)
    names = _names(datasets)
    # Without test data, the test stage uses the validation split.
    if 'test' in names and names['test'] == names.get('val'):
        del datasets['test'], names['test']
    chosen = _choose({s: len(d) for s, d in datasets.items()}, max_samples)
    observed = Observed(datasets, chosen, datamodule.modalities, names)
    observations = _distinct(_read(observed, workers))
    findings += _check_reading(observations, datamodule.batch_size, datasets)
    modalities = datamodule.modalities
    findings += _check_pairing(datasets)
    # The numbers of an embedding have no unit, no place and no meaning of their own.
    images = {m: x for m, x in modalities.items() if x.kind != 'embedding'}
    findings += check_values(observations, images)
    findings += check_copied_images(observations)
    shifts, shift_rows = check_shifts(observations, list(images))
    findings += shifts
    findings += check_dates(observations, list(modalities))
    findings += check_names(names)
    findings += check_duplicates(observations, list(modalities))
    findings += check_places(observations)
    findings += check_sizes(observations)
    findings += check_grids(observations)
    findings += check_labels(observations, options)
    facts |= _summarize(observations, datasets, modalities)
    if options:
        facts |= _estimate(files, len(datasets['train']), data)
    tables = {
        'Values': summarize_values(observations, images),
        'Shift between modalities': shift_rows,
        'Classes': count_classes(observations),
    }
    return Diagnosis(rank(findings), {k: v for k, v in tables.items() if v}, facts)


def _open(datamodule: Any) -> tuple[dict[str, Any], list[Finding]]:
    """Set up the splits and turn errors and warnings into findings."""
    datasets: dict[str, Any] = {}
    findings: list[Finding] = []
    for split, stage in _STAGES.items():
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter('always')
            try:
                datamodule.setup(stage)
            # Report any error raised by a reader as a finding.
            except Exception as error:
                level = Level.ERROR if split == 'train' else Level.NOTE
                text = str(error) or type(error).__name__
                findings.append(Finding.of(level, 'setup', split, text))
                if split == 'train':
                    break
                continue
        findings += [
            Finding.of(Level.WARNING, 'setup', 'data', str(warning.message))
            for warning in raised
            if issubclass(warning.category, UserWarning)
        ]
        dataset = getattr(datamodule, f'{split}_dataset', None)
        known = any(dataset is other for other in datasets.values())
        if dataset is not None and len(dataset) and not known:
            datasets[split] = dataset
    return datasets, findings


def _names(datasets: Mapping[str, Any]) -> dict[str, list[str]]:
    return {
        split: dataset.sample_names()
        for split, dataset in datasets.items()
        if isinstance(dataset, FileDataset)
    }


def _choose(sizes: Mapping[str, int], most: int) -> list[tuple[str, int]]:
    """Choose samples at evenly spaced positions in each split."""
    left, chosen = most, []
    by_size = sorted(sizes, key=lambda split: sizes[split])
    numbers = {}
    for i, split in enumerate(by_size):
        numbers[split] = min(sizes[split], max(left // (len(by_size) - i), 1))
        left -= numbers[split]
    for split, size in sizes.items():
        places = np.linspace(0, size - 1, numbers[split]).round().astype(int)
        chosen += [(split, int(i)) for i in places]
    return chosen


def _read(observed: Dataset[Observation], workers: int | None) -> list[Observation]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1
    number: Any = observed
    loader: DataLoader[Observation] = DataLoader(
        observed,
        batch_size=None,
        num_workers=min(cores if workers is None else workers, len(number)),
    )
    with warnings.catch_warnings():
        # The checks already cover warnings from readers, such as those about nodata.
        warnings.simplefilter('ignore')
        bar = tqdm(loader, 'samples', len(number), unit='sample', disable=None)
        return [_own(observation) for observation in bar]


def _own(observation: Observation) -> Observation:
    """Copy tensors from a worker process, because each shared tensor keeps a file open."""
    for m, values in observation.values.items():
        observation.values[m] = replace(
            values,
            images=values.images.clone(),
            low=values.low.clone(),
            high=values.high.clone(),
        )
    return observation


def _distinct(observations: list[Observation]) -> list[Observation]:
    """Drop the test samples if they are the same as the validation samples."""
    hashes = {
        split: [o.hashes for o in observations if o.split == split]
        for split in ('val', 'test')
    }
    if any(hashes['test']) and hashes['val'] == hashes['test']:
        return [o for o in observations if o.split != 'test']
    return observations


def _check_reading(
    observations: Sequence[Observation], batch_size: int, datasets: Mapping[str, Any]
) -> list[Finding]:
    findings = []
    broken = [o for o in observations if o.error]
    # Report the first five errors in full, and summarize them if there are more.
    for o in broken[:5]:
        findings.append(Finding.of(Level.ERROR, 'files', o.label, o.error))
    if len(broken) > 5:
        findings.append(
            Finding(
                Level.ERROR,
                'files',
                'data',
                f'{len(broken)} of {count(len(observations), "sample")} cannot be read: '
                f'{some(o.label for o in broken)}',
                'readable files',
                'restore the files or set `skip_unreadable: true`',
            )
        )
    faults: dict[tuple[str, str], list[Observation]] = {}
    for o in observations:
        for m, message in o.faults.items():
            faults.setdefault((m, message.split('; ')[-1]), []).append(o)
    for (m, _), group in faults.items():
        first = group[0]
        where = f'{m}, {first.label}'
        if len(group) > 1:
            where += f' and {len(group) - 1} more'
        message = first.faults[m].removeprefix(f'{m}: ')
        findings.append(Finding.of(Level.ERROR, 'values', where, message))
    size = len(datasets['train'])
    if batch_size > size:
        findings.append(
            Finding(
                Level.ERROR,
                'batch',
                'train',
                f'batch_size is {batch_size} for {count(size, "training sample")}',
                'a batch_size no larger than the number of training samples',
                'reduce batch_size or add samples',
            )
        )
    return findings


def _check_pairing(datasets: Mapping[str, Any]) -> list[Finding]:
    findings = []
    lost: dict[str, None] = {}
    for dataset in datasets.values():
        if isinstance(dataset, FileDataset):
            lost |= dict.fromkeys(dataset.left_out)
    if lost:
        findings.append(
            Finding(
                Level.WARNING,
                'pairing',
                'data',
                f'{count(len(lost), "sample")} omitted because a file is missing: '
                f'{some(lost)}',
                'a file for each modality and mask of a sample',
                'add the files, or set `skip_incomplete: keep` to use the remaining images',
            )
        )
    rasters = getattr(datasets['train'], 'rasters', None)
    if isinstance(rasters, JoinedRasters):
        findings += check_leaves(rasters.leaves, rasters.footprint)
    return findings


def _summarize(
    observations: Sequence[Observation],
    datasets: Mapping[str, Any],
    modalities: Mapping[str, Any],
) -> dict[str, str]:
    read = Counter(o.split for o in observations)
    facts = {
        'Modalities': ', '.join(
            f'{m} ({count(modality.channels, "band")}, {modality.unit})'
            for m, modality in modalities.items()
        ),
        'Samples': ', '.join(
            f'{split} {len(datasets[split]):,} ({n:,} read)'
            for split, n in read.items()
        ),
    }
    if any(o.absent for o in observations):
        facts['Samples with each modality'] = (
            ', '.join(
                f'{m} {sum(m not in o.absent for o in observations)}'
                for m in modalities
            )
            + f' (of {len(observations)})'
        )
    widths = {}
    for m in modalities:
        found = Counter(w for o in observations if (w := o.pixel_width(m)))
        if found:
            widths[m] = f'{m} {found.most_common(1)[0][0]:.3g} m'
    if widths:
        facts['Pixel width'] = ', '.join(widths.values())
    return facts


def _estimate(
    configs: Sequence[Path], samples: int, data: Mapping[str, Any] | None
) -> dict[str, str]:
    """Estimate the cost of the fit if the config has a self-supervised task."""
    try:
        cost = estimate_cost(configs, samples, data=data)
    except ValueError as error:
        return {'Cost': f'not estimated: {error}'}
    return {f'Cost, {name}': value for name, value in cost.items()}
