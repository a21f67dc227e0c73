"""Translation of exceptions into error answers."""

from __future__ import annotations

import errno
import sys
import traceback

from MaskSAMCore.errors import Cancelled, CannotResume, MaskSAMError, OutOfMemory, is_out_of_memory
from MaskSAMCore.worker.protocol import ErrorCode, ProtocolError, RequestError

MEMORY_ADVICE = (
    "the memory ran out: draw a smaller region of interest (ROI), close other programs, or choose"
    " a smaller model"
)


def as_request_error(error: BaseException) -> RequestError:
    """Return the error answer for an exception, with a line for the user and one for the log."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ProtocolError):
        return RequestError(ErrorCode.INVALID_PARAMS, _one_line(str(error)))
    if isinstance(error, Cancelled):
        return RequestError(ErrorCode.CANCELLED, "cancelled")
    if is_out_of_memory(error):
        return RequestError(ErrorCode.OUT_OF_MEMORY, MEMORY_ADVICE, _traceback(error))
    if isinstance(error, CannotResume):
        return RequestError(ErrorCode.CANNOT_RESUME, _one_line(str(error)))
    if isinstance(error, MaskSAMError):
        # The message of an OutOfMemory already says what to do, so it is kept.
        code = ErrorCode.OUT_OF_MEMORY if isinstance(error, OutOfMemory) else ErrorCode.REFUSED
        return RequestError(code, _one_line(str(error)))
    if _is_damaged_torch(error):
        text = (
            f"PyTorch is damaged ({_one_line(f'{type(error).__name__}: {error}')}): uninstall it in"
            " the module PyTorch, restart Slicer and install it again"
        )
        return RequestError(ErrorCode.REFUSED, text, _traceback(error))
    if isinstance(error, ModuleNotFoundError):
        text = f"the Python package '{error.name}' is missing: install MaskSAM's packages"
        return RequestError(ErrorCode.REFUSED, text, _traceback(error))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        text = f"the disk is full: free some space ({error.filename})"
        return RequestError(ErrorCode.REFUSED, text)
    text = f"an error inside MaskSAM ({_one_line(f'{type(error).__name__}: {error}')})"
    return RequestError(ErrorCode.INTERNAL_ERROR, text, _traceback(error))


def _is_damaged_torch(error: BaseException) -> bool:
    """Return whether PyTorch failed while it was imported, as after an incomplete installation."""
    if "torch" in sys.modules or not isinstance(error, (ImportError, OSError, AttributeError)):
        return False
    frames = (frame for frame, _line in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals.get("__name__") == "torch" for frame in frames)


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _one_line(text: str) -> str:
    return " ".join(text.split())
