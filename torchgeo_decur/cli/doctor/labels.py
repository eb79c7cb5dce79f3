"""Check labels and masks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .findings import Finding, Level, count, some
from .observations import Observation

# Common placeholder values for missing labels.
_UNLABELLED = (-100, -1, 255)


def count_classes(observations: Sequence[Observation]) -> list[dict[str, Any]]:
    """Compute the class distribution of each split.

    Returns:
        One row per target and class, with the percentage of labels in each split.
    """
    splits = list(dict.fromkeys(o.split for o in observations))
    rows = []
    for key in _keys(observations):
        counts = {s: _counts(observations, key, s) for s in splits}
        values = sorted(set().union(*counts.values()))
        for value in values[:100]:
            shares = {
                s: round(100 * c[value] / max(c.total(), 1), 2)
                for s, c in counts.items()
            }
            rows.append(
                {
                    'target': key,
                    'class': f'{value:g}',
                    **{f'% of {s}': share for s, share in shares.items()},
                }
            )
    return rows


def check_labels(
    observations: Sequence[Observation], options: Mapping[str, Any]
) -> list[Finding]:
    """Check the values of the targets and the classes in each split.

    Args:
        observations: the examined samples.
        options: task options. The checks use ``label_key``, ``num_classes``,
            ``num_labels`` and ``ignore_index`` if present.
    """
    findings = []
    for key in _keys(observations):
        findings += _check_range(observations, key, options)
        findings += _check_balance(observations, key, options)
    return findings


def _check_range(
    observations: Sequence[Observation], key: str, options: Mapping[str, Any]
) -> list[Finding]:
    used = key == options.get('label_key', 'label') or key == 'mask'
    number = (options.get('num_classes') or options.get('num_labels')) if used else None
    ignored = _ignored(options)
    lengths = {o.targets[key].length for o in observations if key in o.targets}
    if lengths != {0}:
        if number is None or lengths == {number}:
            return []
        return [
            Finding(
                Level.ERROR,
                'labels',
                key,
                f'targets with {some(sorted(lengths))} labels',
                f'targets with {number} labels, as set in the task',
                'correct num_labels in the task or the classes in the data',
            )
        ]
    wrong: dict[float, list[str]] = {}
    for o in observations:
        for value in o.targets[key].values if key in o.targets else ():
            low = value < 0 and value not in _UNLABELLED
            high = number is not None and value >= number
            outside = (low or high) and value not in ignored
            # If the data contain a placeholder value, the task must set ignore_index.
            if outside or (number and value < 0 and value not in ignored):
                wrong.setdefault(value, []).append(o.label)
    if not wrong:
        return []
    values = sorted(wrong)
    end = f' to {number - 1}' if number else ''
    more = f', or {some(sorted(ignored))}' if ignored else ''
    return [
        Finding(
            Level.ERROR,
            'labels',
            key,
            f'values {some((f"{v:g}" for v in values), 5)}, such as in '
            f'{some(wrong[values[0]])}',
            f'classes from 0{end}{more}',
            'correct num_classes or ignore_index in the task, or the labels',
        )
    ]


def _check_balance(
    observations: Sequence[Observation], key: str, options: Mapping[str, Any]
) -> list[Finding]:
    ignored = {*_ignored(options), *_UNLABELLED}
    samples = Counter(o.split for o in observations if key in o.targets)
    having = {
        split: Counter(
            v
            for o in observations
            if o.split == split and key in o.targets
            for v in set(o.targets[key].values) - ignored
        )
        for split in samples
    }
    findings = []
    train = having.get('train', Counter())
    several = any(o.targets[key].length for o in observations if key in o.targets)
    if len(train) == 1 and samples['train'] > 1 and not several:
        (only,) = train
        findings.append(
            Finding(
                Level.WARNING,
                'labels',
                key,
                f'only class {only:g} in {count(samples["train"], "training sample")}',
                'at least two classes',
                'check the labels and the split',
            )
        )
    for split, classes in having.items():
        if not train or split == 'train':
            continue
        # With this many expected samples, the absence of a class is not due to chance.
        absent = [
            value
            for value, n in classes.items()
            if value not in train
            and n >= 5
            and n / samples[split] * samples['train'] >= 10
        ]
        if absent:
            findings.append(
                Finding(
                    Level.WARNING,
                    'labels',
                    key,
                    f'classes {some((f"{v:g}" for v in sorted(absent)), 5)} occur in '
                    f'{split}, but not in {count(samples["train"], "training sample")}',
                    'all classes in the training split',
                    'check the labels and stratify the split',
                )
            )
    return findings


def _keys(observations: Sequence[Observation]) -> list[str]:
    return list(dict.fromkeys(key for o in observations for key in o.targets))


def _counts(
    observations: Sequence[Observation], key: str, split: str
) -> Counter[float]:
    found: Counter[float] = Counter()
    for o in observations:
        if o.split == split and key in o.targets:
            target = o.targets[key]
            found.update(dict(zip(target.values, target.counts, strict=True)))
    return found


def _ignored(options: Mapping[str, Any]) -> set[float]:
    value = options.get('ignore_index')
    return set() if value is None else {float(value)}
