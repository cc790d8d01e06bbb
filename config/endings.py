"""How a supervising command ends: the first signal interrupts it, later ones cannot interrupt its stopping."""

import signal
from types import FrameType

# SIGHUP: the terminal was closed. A wrapper such as `uv run` may pass a signal on that we also got ourselves.
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def raise_on_first() -> None:
    """From here on the first ending signal raises KeyboardInterrupt. Also SIGINT, which shells ignore for background jobs."""
    for ending in ENDINGS:
        signal.signal(ending, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for ending in ENDINGS:
        signal.signal(ending, signal.SIG_IGN)
    raise KeyboardInterrupt
