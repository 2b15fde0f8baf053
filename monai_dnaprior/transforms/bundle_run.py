"""How a bundle's run begins, and how it ends if it fails."""

from __future__ import annotations

import logging
import sys
import warnings
from types import TracebackType

import torch

from ..fitting.devices import computing_device

logger = logging.getLogger(__name__)


def begin_run(device: str | torch.device) -> None:
    """Say where the run computes, not what others warn of as they start, and let a failure end with its reason."""
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
    sys.excepthook = say_reason_last
    logger.info("computing on %s", computing_device(device))


def say_reason_last(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An error with its traceback, and then its reason in one line, which MONAI buries under errors of its own."""
    sys.__excepthook__(kind, error, trace)
    reason = reason_of(error)
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    print(f"monai-dnaprior: {lines[0]}", file=sys.stderr)


def reason_of(error: BaseException) -> BaseException:
    """The error that was raised first: those of MONAI only say in which part of a configuration that was."""
    while error.__cause__ is not None and raised_in(error).startswith("monai."):
        error = error.__cause__
    return error


def raised_in(error: BaseException) -> str:
    """The module that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
