"""Record the findings of an examination, and rank them by severity."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

# The form of error messages in this package.
_MESSAGE = re.compile(
    r'^(?:(?P<lead>[^;]*?): )?expected (?P<expected>.+?), (?:but )?found (?P<found>.+?)'
    r'(?:; (?P<cure>.+))?$',
    re.DOTALL,
)


class Level(IntEnum):
    """Severity of a finding."""

    #: The fit works, and the finding may be natural.
    NOTE = 0
    #: The fit runs, but may learn less or score wrongly.
    WARNING = 1
    #: The fit stops, or its result is almost certainly wrong.
    ERROR = 2


@dataclass(frozen=True)
class Finding:
    """A possible fault of the data.

    Args:
        level: severity.
        check: name of the check, such as 'unit' or 'shift'.
        where: modality, split or file.
        found: observation.
        expected: expectation, or ''.
        cure: fix, or ''.
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
            where: modality, split or file.
            message: a message such as 'expected x, found y; do z'. For other
                messages, the part after the first semicolon is the fix.

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
    """Return each finding once, the most severe first."""
    return sorted(dict.fromkeys(findings), key=lambda finding: -finding.level)


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural if needed.

    Example:
        >>> count(1, 'sample'), count(1200, 'sample')
        ('1 sample', '1,200 samples')
    """
    return f'{number:,} {noun}{"" if number == 1 else "s"}'


def some(names: Iterable[object], most: int = 3) -> str:
    """Return the first names as text.

    Example:
        >>> some(['a', 'b', 'c', 'd'])
        'a, b, c and 1 more'
    """
    known = [str(name) for name in names]
    more = f' and {len(known) - most} more' if len(known) > most else ''
    return ', '.join(known[:most]) + more
