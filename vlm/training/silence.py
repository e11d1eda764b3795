"""Warnings and advice of Lightning that no user of ours can act on."""

from __future__ import annotations

import logging
import warnings

SILENCED = (
    # Images in memory need no workers; evaluation needs none of fit's callbacks.
    ".*does not have many workers.*",
    ".*callbacks used to create the checkpoint.*",
    # Of Lightning's own calls of torch.
    ".*treespec, LeafSpec.*",
    # Frozen parts are, and the table at the start says so.
    ".*in eval mode at the start of training.*",
    # Scores are computed on the gathered answers, so every process has the same.
    ".*sync_dist=True.*",
    # A continued run goes on in its folder (`continue_metrics`).
    ".*Previous log files in this directory.*",
    # `train_loss` is logged at the end of an epoch too; `RunReport` says what few steps mean.
    ".*is smaller than the logging interval.*",
)


def silence() -> None:
    """From now on they are not shown."""
    for message in SILENCED:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_news)


OLD_NEWS = (
    "Tip:",  # an advertisement
    "PU available:",  # `RunReport` names a training's device,
    "`Trainer.fit` stopped:",  # and how long it was
    "Restoring states",  # another line says when they are restored
)


def _is_news(record: logging.LogRecord) -> bool:
    return not any(text in record.getMessage() for text in OLD_NEWS)
