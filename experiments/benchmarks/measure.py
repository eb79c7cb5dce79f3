"""How benchmarks measure: cases that take turns, and the memory that tensors take."""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')


class Clock:
    """Seconds of the parts of a case; a device finishes its work at each part's end.

    Example:
        >>> clock = Clock()
        >>> clock.lap('first')
        >>> list(clock.seconds)
        ['first']
    """

    def __init__(self) -> None:
        """Initialize a new Clock instance."""
        self.seconds: dict[str, float] = {}
        self.start = _now()

    def lap(self, part: str) -> None:
        """End a part; a part that occurs again is added up.

        Args:
            part: its name.
        """
        now = _now()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.start
        self.start = now


def take_turns(
    cases: Mapping[str, Callable[[], Any]],
    repeats: int,
    minutes: float = 1.0,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Measure cases in turn, so that what else the machine does meets all.

    Args:
        cases: what to run, by name.
        repeats: how often, after a first pass that warms and is left out.
        minutes: after how many no further repeat is begun; there is one at least.
        clock: what tells the seconds; by default time, after the device has finished.

    Returns:
        Seconds of each case, once a repeat.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    clock = clock or _now
    begin = _now()
    for repeat in range(repeats + 1):
        if repeat > 1 and _now() - begin > 60 * minutes:
            break
        for name, case in cases.items():
            start = clock()
            case()
            if repeat:
                seconds[name].append(clock() - start)
    return seconds


def peak_mib(function: Callable[[], Any]) -> float:
    """Largest memory that a call takes for tensors, above what is there before.

    Counted where torch allocates; what libraries keep for themselves is not in it.

    Args:
        function: what to run.

    Returns:
        Mebibytes.
    """
    if DEVICE.type == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    results: Any = recorded.profiler
    events = [e for e in results.kineto_results.events() if e.name() == '[memory]']
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most / 2**20


def _now() -> float:
    if DEVICE.type == 'cuda':
        torch.cuda.synchronize()
    return perf_counter()
