"""Progress bar for 80-column terminals."""

import logging
import sys
from contextlib import ExitStack
from shutil import get_terminal_size
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from tqdm.contrib.logging import logging_redirect_tqdm

# Minimum number of columns for showing the percentage and the steps per second.
_WIDE = 110
_NAMES = {'train_loss': 'loss', 'alignment': 'align'}
_FORMATS = {'alignment': '.2f', 'lr': '.2g'}
_LOGGERS = ('lightning.pytorch', None)


class CompactProgressBar(TQDMProgressBar):
    """Lightning's progress bar with metrics that fit in 80 columns.

    Log lines, such as the table of a callback, appear above the bar.

    Args:
        refresh_rate: number of batches between two updates, or 0 to hide the bar.
        process_position: number of lines by which to offset the bar.
        leave: whether to keep the bar of each epoch on screen.
    """

    def __init__(
        self, refresh_rate: int = 1, process_position: int = 0, leave: bool = False
    ) -> None:
        """Initialize a new CompactProgressBar instance."""
        super().__init__(refresh_rate, process_position, leave)
        wide = get_terminal_size().columns >= _WIDE
        # tqdm truncates long lines at the end, so the metrics must not come last.
        self.BAR_FORMAT = (
            f'{"{l_bar}" if wide else "{desc}|"}{{bar}}| {{n_fmt}}/{{total_fmt}} '
            '[{elapsed}<{remaining}{postfix}'
            f'{", {rate_noinv_fmt}" if wide else ""}]'
        )
        self._redirect = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Redirect Lightning's log so that its lines appear above the bar."""
        super().setup(trainer, pl_module, stage)
        self._redirect.close()
        if self.is_enabled:
            loggers = [logging.getLogger(name) for name in _LOGGERS]
            console = [logger for logger in loggers if _prints(logger)]
            self._redirect.enter_context(logging_redirect_tqdm(console))

    def teardown(
        self, trainer: Trainer, pl_module: LightningModule, stage: str
    ) -> None:
        """Restore Lightning's log."""
        self._redirect.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Restore Lightning's log."""
        self._redirect.close()

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, Any]:
        """Return the metrics for the bar as short texts, without the run version."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop('v_num', None)
        return {
            _NAMES.get(name, name): format(value, _FORMATS.get(name, '.4g'))
            if isinstance(value, float)
            else value
            for name, value in metrics.items()
        }


def use_compact_bar(trainer: Trainer) -> None:
    """Replace the default progress bar of a trainer with a compact one.

    Other bars, such as Lightning's ``RichProgressBar``, are kept.

    Args:
        trainer: trainer to change in place.
    """
    bar = trainer.progress_bar_callback
    if type(bar) is not TQDMProgressBar:
        return
    compact = CompactProgressBar(bar.refresh_rate, bar.process_position, bar._leave)
    if not bar.is_enabled:
        compact.disable()
    callbacks = cast(list[Callback], cast(Any, trainer).callbacks)
    callbacks[callbacks.index(bar)] = compact


def _prints(logger: logging.Logger) -> bool:
    """Check whether a logger itself writes to the terminal."""
    return any(
        isinstance(handler, logging.StreamHandler)
        and handler.stream in (sys.stdout, sys.stderr)
        for handler in logger.handlers
    )
