"""A progress bar that fits where the code runs."""

import os
import sys

from tqdm.auto import tqdm


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


def progress_bar(total: int, done: int = 0) -> tqdm:
    """A bar in a terminal and in a notebook; none where output is a file, or where TQDM_DISABLE is set."""
    quiet: bool | None = True if os.environ.get("TQDM_DISABLE") else (False if in_notebook() else None)
    return tqdm(total=total, initial=done, unit="step", disable=quiet, mininterval=0.5)
