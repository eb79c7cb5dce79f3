"""Time and memory measurements of alternating cases."""

import os
from collections.abc import Callable, Mapping
from time import perf_counter, process_time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')


class Clock:
    """Stopwatch for the parts of a case, with device synchronization after each part.

    Args:
        now: function that returns seconds; by default, real time after synchronization.

    Example:
        >>> clock = Clock()
        >>> clock.lap('first')
        >>> list(clock.seconds)
        ['first']
    """

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        """Initialize a new Clock instance."""
        self.seconds: dict[str, float] = {}
        self.now = now or _now
        self.start = self.now()

    def lap(self, part: str) -> None:
        """End a part and add its seconds to earlier parts with the same name."""
        now = self.now()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.start
        self.start = now


def take_turns(
    cases: Mapping[str, Callable[[], Any]],
    repeats: int,
    minutes: float = 1.0,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Measure alternating cases so that other load on the machine affects all of them.

    Args:
        cases: functions to run, by name.
        repeats: number of repeats, after a warm-up that is not measured.
        minutes: time in minutes after which no further repeat starts, except the first.
        clock: function that returns seconds; by default, real time after synchronization.

    Returns:
        Seconds of each repeat of each case.
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
    """Measure the peak memory of a call in MiB, above the memory at its start.

    Only memory that torch allocates is counted.

    Args:
        function: function to call.
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


def work_time() -> float:
    """Return CPU time without a GPU, else real time after synchronization, in seconds.

    Other work of the machine affects CPU time less. CPU time includes the waiting of
    threads, so use one thread.
    """
    return process_time() if DEVICE.type == 'cpu' else _now()


def load() -> str:
    """Return the load average of the last minute, for the case of a row."""
    return f'{os.getloadavg()[0]:.1f}'


def _now() -> float:
    if DEVICE.type == 'cuda':
        torch.cuda.synchronize()
    return perf_counter()
