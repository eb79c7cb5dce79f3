"""Findings of the data checks, ranked by severity."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

# Pattern of the error messages in this package.
_MESSAGE = re.compile(
    r'^(?:(?P<lead>[^;]*?): )?expected (?P<expected>.+?), (?:but )?found (?P<found>.+?)'
    r'(?:; (?P<cure>.+))?$',
    re.DOTALL,
)


class Level(IntEnum):
    """Severity of a finding."""

    #: The fit is unaffected, and the finding may be a natural property of the data.
    NOTE = 0
    #: The fit runs, but its features or scores may be worse than they should be.
    WARNING = 1
    #: The fit fails, or its result is almost certainly wrong.
    ERROR = 2


@dataclass(frozen=True)
class Finding:
    """Possible defect in the data.

    Args:
        level: severity.
        check: name of the check, such as 'unit' or 'shift'.
        where: affected modality, split or file.
        found: observed property.
        expected: expected property, or ''.
        cure: suggested fix, or ''.
    """

    level: Level
    check: str
    where: str
    found: str
    expected: str = ''
    cure: str = ''

    @classmethod
    def of(cls, level: Level, check: str, where: str, message: str) -> 'Finding':
        """Create a finding from an error message.

        Args:
            level: severity.
            check: name of the check.
            where: affected modality, split or file.
            message: message such as 'expected x, found y; do z'. In messages of another
                form, the text after the first semicolon is the suggested fix.

        Example:
            >>> Finding.of(Level.ERROR, 'unit', 's1', 'expected dB, found power; convert it')
            Finding(level=<Level.ERROR: 2>, check='unit', where='s1', found='power', expected='dB', cure='convert it')
        """
        text = ' '.join(message.split())
        if match := _MESSAGE.match(text):
            lead = f' ({match["lead"]})' if match['lead'] else ''
            cure = match['cure'] or ''
            return cls(
                level, check, where, match['found'] + lead, match['expected'], cure
            )
        found, _, cure = text.partition('; ')
        return cls(level, check, where, found, cure=cure)


def rank(findings: Iterable[Finding]) -> list[Finding]:
    """Remove duplicate findings and sort the others, most severe first."""
    return sorted(dict.fromkeys(findings), key=lambda finding: -finding.level)


def count(number: int, noun: str) -> str:
    """Format a number with a noun, in the plural unless the number is 1.

    Example:
        >>> count(1, 'sample'), count(1200, 'sample')
        ('1 sample', '1,200 samples')
    """
    return f'{number:,} {noun}{"" if number == 1 else "s"}'


def some(names: Iterable[object], most: int = 3) -> str:
    """Join the first names into text and count the others.

    Example:
        >>> some(['a', 'b', 'c', 'd'])
        'a, b, c and 1 more'
    """
    known = [str(name) for name in names]
    more = f' and {len(known) - most} more' if len(known) > most else ''
    return ', '.join(known[:most]) + more
