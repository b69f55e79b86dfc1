"""Libraries keep quiet unless CLFTASK_DEBUG is set; what clftask itself logs is in `logs`."""

from __future__ import annotations

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Silence what users can do nothing about: loading bars, notices, deprecations."""
    if os.environ.get("CLFTASK_DEBUG"):
        return
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    for name in ("transformers", "accelerate", "datasets", "ray", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
