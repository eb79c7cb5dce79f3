"""Image regions and bands used by common and unique embeddings."""

from collections.abc import Iterable, Mapping
from itertools import combinations, product
from math import isfinite, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..modalities import Modality
from .attribution import correlation, gradcam, integrated_gradients, overlap, shares
from .classifiers import Array
from .model_interface import Pretrained, eval_with_gradients, iter_batches, parts_of
from .result import TITLES, AnalysisResult
from .saliency_figures import Example, draw_bands, draw_examples, draw_overlaps


def spatial_saliency(
    model: Pretrained,
    batches: Iterable[Mapping[str, Tensor]],
    modalities: Mapping[str, Modality],
    common_dim: int | None,
    max_samples: int = 256,
    examples: int = 4,
) -> AnalysisResult:
    """Compare the image regions that common and unique dimensions use (paper, Fig. 6a).

    For each modality, GradCAM highlights the positions that affect the mean of the
    common or of the unique dimensions. For each pair of modalities and each sample, the
    overlap of the maps (``analysis.attribution.overlap``) is 1 for the same and 0 for
    disjoint positions. The baseline is the overlap of maps from different samples,
    which is above 0, for example, if maps favor the image center. Overlaps use absolute
    values; the tables also contain the overlap of positive values.

    Wang et al., *Decoupling Common and Unique Representations for Multimodal
    Self-supervised Learning*, ECCV 2024, https://arxiv.org/abs/2309.05300, section 7.

    Args:
        model: a pretraining task. On exit, the mode of its modules is restored.
        batches: images in [0, 1] by modality, shape (B, C, H, W).
        modalities: description of each modality.
        common_dim: number of common dimensions, which come first, or None if the model
            does not distinguish common and unique dimensions.
        max_samples: maximum number of samples.
        examples: number of samples to show in the figure.

    Returns:
        Table ``overlap`` with one row per pair of modalities and part, and table
        ``samples`` with one row per pair, part and sample. The figure ``overlap`` is a
        histogram, and the figure ``examples`` shows maps next to their images.

    Raises:
        ImportError: if captum is not installed.
        NotApplicable: if the model has no suitable feature maps.
        ValueError: if an option is out of range.
    """
    pairs = list(combinations(modalities, 2))
    found: dict[tuple[str, str], list[Tensor]] = {}
    shown: list[Example] = []
    with eval_with_gradients(model):
        for images in iter_batches(model, batches, modalities, max_samples):
            parts = _parts(model, images, common_dim)
            maps = {
                (m, part): gradcam(model, m, x, parts[part]).float().cpu()
                for (m, x), part in product(images.items(), parts)
            }
            for (m, n), part in product(pairs, parts):
                scores = _scores(maps[m, part], maps[n, part])
                found.setdefault((f'{m} and {n}', part), []).append(scores)
            for i in range(min(examples - len(shown), len(next(iter(maps.values()))))):
                pictures = {m: x[i].cpu() for m, x in images.items()}
                shown.append(Example(pictures, {k: x[i] for k, x in maps.items()}))
    overlaps = {key: torch.cat(x, 1).double().numpy() for key, x in found.items()}
    sizes = {m: '{} x {}'.format(*x.shape[1:]) for (m, _), x in maps.items()}
    figures = {}
    if overlaps:
        figures['overlap'] = draw_overlaps(overlaps)
    if shown:
        figures['examples'] = draw_examples(shown, modalities)
    tables = {
        'overlap': [_overlap_row(*key, x) for key, x in overlaps.items()],
        'samples': [
            {
                'modalities': pair,
                'part': part,
                'sample': i,
                'overlap': _plain(x[0, i]),
                'correlation': _plain(x[1, i]),
            }
            for (pair, part), x in overlaps.items()
            for i in range(x.shape[1])
        ],
    }
    return AnalysisResult(
        'spatial_saliency',
        TITLES['spatial_saliency'],
        _spatial_text(overlaps, sizes),
        {name: rows for name, rows in tables.items() if rows},
        figures,
    )


def spectral_saliency(
    model: Pretrained,
    batches: Iterable[Mapping[str, Tensor]],
    modalities: Mapping[str, Modality],
    common_dim: int | None,
    max_samples: int = 128,
    steps: int = 16,
) -> AnalysisResult:
    """Compare the bands that common and unique dimensions use (paper, Fig. 6b).

    Integrated gradients, with an image of zeros as baseline, attribute the mean of the
    common or of the unique dimensions to bands. Attributions are summed over all
    positions, and their absolute values are normalized to sum to 1 for each sample.

    Wang et al., *Decoupling Common and Unique Representations for Multimodal
    Self-supervised Learning*, ECCV 2024, https://arxiv.org/abs/2309.05300, section 7.

    Args:
        model: a pretraining task. On exit, the mode of its modules is restored.
        batches: images in [0, 1] by modality, shape (B, C, H, W).
        modalities: description of each modality.
        common_dim: number of common dimensions, which come first, or None if the model
            does not distinguish common and unique dimensions.
        max_samples: maximum number of samples.
        steps: number of integration steps.

    Returns:
        Table ``bands`` with the fraction of the attribution for each band and part, and
        table ``integral`` with the errors of the integral. The figure ``bands`` is a
        box plot.

    Raises:
        ImportError: if captum is not installed.
        ValueError: if an option is out of range.
    """
    found: dict[tuple[str, str], list[Tensor]] = {}
    errors: dict[tuple[str, str], list[Tensor]] = {}
    with eval_with_gradients(model):
        for images in iter_batches(model, batches, modalities, max_samples):
            parts = _parts(model, images, common_dim)
            for (m, x), part in product(images.items(), parts):
                bands, error = integrated_gradients(model, m, x, parts[part], steps)
                found.setdefault((m, part), []).append(shares(bands).cpu())
                error = error / bands.abs().sum(1)
                errors.setdefault((m, part), []).append(error.cpu())
    by_band = {key: torch.cat(x).double().numpy() for key, x in found.items()}
    # Omit samples without any attribution.
    by_band = {key: x[np.isfinite(x).all(1)] for key, x in by_band.items()}
    missed = {key: float(torch.cat(x).nanmedian()) for key, x in errors.items()}
    drawn = {key: x for key, x in by_band.items() if x.shape[1] > 1 and len(x)}
    figures = {'bands': draw_bands(drawn, modalities)} if drawn else {}
    tables = {
        'bands': [
            _band_row(modalities[m], m, part, i, x[:, i])
            for (m, part), x in by_band.items()
            for i in range(x.shape[1] if len(x) else 0)
        ],
        'integral': [
            {'modality': m, 'part': part, 'median_error': _plain(x)}
            for (m, part), x in missed.items()
        ],
    }
    return AnalysisResult(
        'spectral_saliency',
        TITLES['spectral_saliency'],
        _spectral_text(by_band, missed, modalities, steps),
        tables,
        figures,
    )


def _parts(
    model: Pretrained, images: Mapping[str, Tensor], common_dim: int | None
) -> dict[str, slice]:
    m, x = next(iter(images.items()))
    with torch.no_grad():
        return parts_of(common_dim, model.embed({m: x[:1]})[m].shape[1])


def _scores(a: Tensor, b: Tensor) -> Tensor:
    """Return the overlap, correlation, baseline and positive overlap, shape (4, B)."""
    other = overlap(a, b.roll(1, 0)) if len(b) > 1 else torch.full((1,), torch.nan)
    positive = overlap(a.clamp(min=0), b.clamp(min=0))
    return torch.stack([overlap(a, b), correlation(a, b), other, positive])


def _overlap_row(pair: str, part: str, x: Array) -> dict[str, Any]:
    good = x[0][np.isfinite(x[0])]
    mean, half = _mean(good)
    return {
        'modalities': pair,
        'part': part,
        'samples': len(good),
        'overlap': _plain(mean),
        'low': _plain(mean - half),
        'high': _plain(mean + half),
        'overlap_of_different_samples': _plain(_mean(x[2])[0]),
        'correlation': _plain(_mean(x[1])[0]),
        'positive_samples': int(np.isfinite(x[3]).sum()),
        'overlap_of_positive_parts': _plain(_mean(x[3])[0]),
    }


def _band_row(
    modality: Modality, name: str, part: str, band: int, x: Array
) -> dict[str, Any]:
    low, median, high = np.quantile(x, [0.25, 0.5, 0.75]).tolist()
    return {
        'modality': name,
        'part': part,
        'band': modality.bands[band],
        'wavelength_nm': modality.wavelengths and modality.wavelengths[band],
        'mean': float(x.mean()),
        'quartile_1': low,
        'median': median,
        'quartile_3': high,
        'samples': len(x),
    }


def _mean(x: Array) -> tuple[float, float]:
    """Return the mean of finite values and the half-width of its confidence interval."""
    x = x[np.isfinite(x)]
    if len(x) < 2:
        return (float(x[0]) if len(x) else float('nan')), float('nan')
    return float(x.mean()), 1.96 * float(x.std(ddof=1)) / sqrt(len(x))


def _plain(x: float) -> float | None:
    """Replace NaN with None, because JSON does not support NaN."""
    return float(x) if isfinite(x) else None


def _spatial_text(
    overlaps: Mapping[tuple[str, str], Array], sizes: Mapping[str, str]
) -> str:
    grids = ', '.join(f'{size} for {m}' for m, size in sizes.items())
    lines = []
    for (pair, part), x in overlaps.items():
        row = _overlap_row(pair, part, x)
        if row['overlap'] is None:
            lines.append(f'- {pair}, {part}: no sample has maps in both modalities.')
            continue
        words = f'- {pair}, {part}: overlap {row["overlap"]:.2f}'
        if (other := row['overlap_of_different_samples']) is not None:
            words += f' (different samples {other:.2f})'
        if (rho := row['correlation']) is not None:
            words += f', correlation {rho:.2f}'
        lines.append(f'{words}; means over {row["samples"]} samples.')
    for pair in dict.fromkeys(pair for pair, _ in overlaps):
        if {(pair, 'common'), (pair, 'unique')} <= set(overlaps):
            both = [overlaps[pair, part] for part in ('common', 'unique')]
            lines += _compared(pair, *both)
    return (
        'GradCAM maps for the mean of the common and of the unique dimensions of each '
        'modality. The overlap is 1 if both modalities use the same positions, and 0 if '
        'they share none. Maps have the resolution of the last feature map: '
        f'{grids}.\n\n' + '\n'.join(lines)
    )


def _compared(pair: str, common: Array, unique: Array) -> list[str]:
    mean, half = _mean(common[0] - unique[0])
    if not isfinite(half):
        return [f'- {pair}: too few samples to compare common and unique.']
    lines = [
        f'- {pair}: common minus unique is {mean:.2f} (95 % interval {mean - half:.2f} '
        f'to {mean + half:.2f}).'
    ]
    # Maps of different images overlap too, even for an untrained network.
    mean, half = _mean((common[0] - common[2]) - (unique[0] - unique[2]))
    if mean - half > 0:
        verdict = 'unique dimensions overlap significantly less, as in the paper'
    elif mean + half < 0:
        verdict = 'unique dimensions overlap significantly more'
    else:
        verdict = 'no significant difference'
    if isfinite(half):
        lines.append(
            f'- {pair}: after subtracting the overlap of different samples, the difference '
            f'is {mean:.2f} ({mean - half:.2f} to {mean + half:.2f}): {verdict}.'
        )
    return lines


def _spectral_text(
    by_band: Mapping[tuple[str, str], Array],
    missed: Mapping[tuple[str, str], float],
    modalities: Mapping[str, Modality],
    steps: int,
) -> str:
    lines = []
    for m in dict.fromkeys(m for m, _ in by_band):
        bands = modalities[m].bands
        parts = {part: x for (n, part), x in by_band.items() if n == m and len(x)}
        if len(bands) == 1:
            lines.append(f'- {m} has only one band.')
            continue
        for part, x in parts.items():
            medians = np.median(x, 0)
            first = ', '.join(
                f'{bands[i]} ({medians[i]:.0%})' for i in np.argsort(-medians)[:3]
            )
            lines.append(
                f'- {m}: {part} dimensions mostly use {first}; medians over {len(x)} '
                'samples.'
            )
        if len(parts) == 2:
            common, unique = (x.mean(0) for x in parts.values())
            lines.append(
                f'- {m}: the mean attributions of common and unique dimensions differ by '
                f'{np.abs(common - unique).sum() / 2:.0%}.'
            )
    return (
        'Fraction of the attribution that each band receives, for the mean of the common '
        'and of the unique dimensions. Attributions are integrated gradients from an image '
        f'of zeros. The median error of the integral with {steps} steps is at most '
        f'{max(missed.values()):.1%}.\n\n' + '\n'.join(lines)
    )
