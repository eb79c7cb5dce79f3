"""What the tests of several losses share."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch


@pytest.fixture
def run_processes(tmp_path: Path) -> Callable[[dict[str, object]], list[dict]]:
    def run(case: dict[str, object]) -> list[dict]:
        torch.save(case, tmp_path / 'case.pt')
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
