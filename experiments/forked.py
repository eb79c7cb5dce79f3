"""Run commands in separate processes, forked from a process with all imports.

This saves time, because the imports take longer than many probes.
"""

import multiprocessing
import sys
from collections.abc import Sequence


def run(args: Sequence[str]) -> None:
    """Run a subcommand of ``torchgeo`` or ``torchgeo-decur``.

    Args:
        args: name of the subcommand and its options.

    Raises:
        RuntimeError: if the command fails.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['torchgeo.main', 'torchgeo_decur.cli'])
    process = context.Process(target=_call, args=(list(args),))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f'{args[0]} failed with exit code {process.exitcode}')


def _call(args: list[str]) -> None:
    import torchgeo.main

    import torchgeo_decur.cli

    ours = args[0] == 'probe'
    sys.argv = ['torchgeo-decur' if ours else 'torchgeo', *args]
    (torchgeo_decur.cli if ours else torchgeo.main).main()
