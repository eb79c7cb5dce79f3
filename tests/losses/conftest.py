"""Fixtures of the tests of several losses."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope='module')
def run_processes(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[dict[str, dict]], list[dict]]:
    tmp_path = tmp_path_factory.mktemp('processes')

    def run(cases: dict[str, dict]) -> list[dict]:
        torch.save(cases, tmp_path / 'cases.pt')
        script = Path(__file__).with_name('two_processes.py')
        with ExitStack() as stack:
            processes = []
            for rank in '01':
                process = subprocess.Popen(
                    [sys.executable, script, tmp_path, rank, '2'],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                processes.append(stack.enter_context(process))
                stack.callback(process.kill)
            for process in processes:
                output, _ = process.communicate(timeout=120)
                assert process.returncode == 0, output
        files = [tmp_path / f'rank{rank}.pt' for rank in range(2)]
        return [torch.load(file, weights_only=True) for file in files]

    return run
