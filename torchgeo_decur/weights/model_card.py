"""Model card for encoders, created from their metadata.

``ModelCard.from_template`` would reorder the header and drop the last newline. Its
template would also need code for the tables.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import yaml

# Paper to cite for each task.
_PAPERS = {
    'DeCUR': 'Y. Wang et al., *Decoupling Common and Unique Representations for '
    'Multimodal Self-supervised Learning*, ECCV 2024, https://arxiv.org/abs/2309.05300',
    'CoMM': 'B. Dufumier, J. Castillo-Navarro et al., *What to align in multimodal '
    'contrastive learning?*, ICLR 2025, https://arxiv.org/abs/2409.07402',
    'COrAL': 'C. Cissee et al., *Orthogonalized Multimodal Contrastive Learning with '
    'Asymmetric Masking for Structured Representations*, 2026, '
    'https://arxiv.org/abs/2602.14983',
    'FactorCL': 'P. P. Liang, Z. Deng et al., *Factorized Contrastive Learning: Going '
    'Beyond Multi-view Redundancy*, NeurIPS 2023, https://arxiv.org/abs/2306.05268',
    'InfMasking': 'L. Wen, Q. Dai et al., *InfMasking: Unleashing Synergistic '
    'Information by Contrastive Multimodal Interactions*, NeurIPS 2025, '
    'https://arxiv.org/abs/2509.25270',
    'BarlowTwins': 'J. Zbontar et al., *Barlow Twins: Self-Supervised Learning via '
    'Redundancy Reduction*, ICML 2021, https://arxiv.org/abs/2103.03230',
    'VICReg': 'A. Bardes et al., *VICReg: Variance-Invariance-Covariance Regularization '
    'for Self-Supervised Learning*, ICLR 2022, https://arxiv.org/abs/2105.04906',
    'CrossModalSimCLR': 'T. Chen et al., *A Simple Framework for Contrastive Learning of '
    'Visual Representations*, ICML 2020, https://arxiv.org/abs/2002.05709',
    'CLIP': 'A. Radford et al., *Learning Transferable Visual Models From Natural '
    'Language Supervision*, ICML 2021, https://arxiv.org/abs/2103.00020',
}
# Row titles of the training table, by metadata key.
_ROWS = {
    'task': 'objective',
    'data': 'data',
    'epochs': 'epochs',
    'steps': 'steps',
    'weights': 'published weights',
    'publication': 'publication',
}


class Encoders(Protocol):
    """Interface of the encoders that a model card describes."""

    modalities: dict[str, int]
    model: dict[str, str]
    metadata: dict[str, dict[str, Any]]

    @property
    def num_features(self) -> dict[str, int]:
        """Number of features by modality."""
        ...


def card_text(encoders: Encoders, data: Mapping[str, Any], repo_id: str) -> str:
    """Compose a model card.

    Args:
        encoders: encoders to describe.
        data: metadata of the card, with the keys of the Hub.
        repo_id: name of the repository in the example.

    Returns:
        Markdown text with a YAML header.
    """
    names = list(encoders.modalities)
    known = {m: encoders.metadata.get(m, {}) for m in names}
    tasks = sorted({str(k['task']) for k in known.values() if 'task' in k})
    by = f', pretrained without labels by {" and ".join(tasks)}' if tasks else ''
    parts = [
        f'---\n{yaml.safe_dump(dict(data), sort_keys=False).strip()}\n---',
        f'# Encoders for {" and ".join(names)}',
        f'One encoder per modality, which maps images to features{by}. The model encodes '
        'any subset of the modalities.',
        _modality_table(encoders),
        '## Use',
        _example(names[-1], encoders.modalities[names[-1]], repo_id),
        '## Images',
        'Images must be scaled to [0, 1] and have shape (B, C, H, W), with bands in the '
        'order below.',
        *(f'### {m}\n\n{_images(k)}' for m, k in known.items()),
        '## Training',
        _training(known),
        '## License',
        str(data.get('license', 'Not stated; please add it before publishing.')),
        '## Citation',
        '\n\n'.join(_PAPERS[t] for t in tasks if t in _PAPERS)
        or 'Please cite the paper of the objective.',
    ]
    return '\n\n'.join(parts) + '\n'


def _modality_table(encoders: Encoders) -> str:
    rows = ['| modality | bands | backbone | features |', '|---|---:|---|---:|']
    rows += [
        f'| {m} | {n} | `{encoders.model[m]}` | {encoders.num_features[m]} |'
        for m, n in encoders.modalities.items()
    ]
    return '\n'.join(rows)


def _example(modality: str, channels: int, repo_id: str) -> str:
    return (
        '```python\n'
        'import torch\n'
        'from torchgeo_decur.models import MultimodalEncoder\n\n'
        f"encoder = MultimodalEncoder.from_pretrained('{repo_id}')  # or a folder\n"
        f"features = encoder({{'{modality}': torch.rand(4, {channels}, 224, 224)}})\n"
        '```'
    )


def _images(known: Mapping[str, Any]) -> str:
    bands = known.get('bands')
    if not bands:
        return 'Bands, unit and scale were not recorded; please add them before publishing.'
    unit, limits = known.get('unit'), known.get('limits')
    where = f'in {unit}' if unit else 'in a unit that was not recorded'
    count = '1 band' if len(bands) == 1 else f'{len(bands)} bands'
    text = f'{count} {where}: {", ".join(map(str, bands))}.'
    if limits:
        text += ' Values are clipped to these limits, which are scaled to 0 and 1:\n\n'
        text += '\n'.join(_limit_rows(bands, *limits))
    elif unit:
        text += ' Each image is clipped to its own 1st and 99th percentiles.'
    if normalize := known.get('normalize'):
        text += (
            f'\n\nEach band is then standardized with mean {normalize["mean"]} and '
            f'standard deviation {normalize["std"]}.'
        )
    return text


def _limit_rows(bands: Any, low: Any, high: Any) -> Iterator[str]:
    yield from ('| band | 0 | 1 |', '|---|---:|---:|')
    for band, a, b in zip(bands, low, high, strict=True):
        yield f'| {band} | {a:.6g} | {b:.6g} |'


def _training(known: Mapping[str, Mapping[str, Any]]) -> str:
    rows = ['| | ' + ' | '.join(known) + ' |', '|---|' + '---|' * len(known)]
    for key, name in _ROWS.items():
        values = [str(k.get(key, '')) for k in known.values()]
        if any(values):
            rows.append(f'| {name} | {" | ".join(values)} |')
    if len(rows) == 2:
        return 'Not recorded; please add it before publishing.'
    return '\n'.join(rows)
