"""Exceptions that callers are meant to handle."""

from __future__ import annotations

import errno
from collections.abc import Sequence

# Texts of errors that have no class of their own: PyTorch's on the CPU and Apple GPUs, SimpleITK's,
# those of C++, and those of libraries that could not be loaded.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "not enough memory",
    "bad_alloc",
    "paging file",
)


class MaskSAMError(ValueError):
    """An error that the user can correct; its message is one line that says how."""


class OutOfMemory(MaskSAMError):
    """Too little memory even for the smallest unit of work; the message says what to do."""


class CannotResume(MaskSAMError):
    """An interrupted learning whose model or cases have changed; it can only begin anew."""


class Cancelled(Exception):
    """Work that was stopped at the caller's request; nothing was changed."""


def describe(error: BaseException) -> str:
    """Return a message for the user about an error of the work, without error numbers."""
    if isinstance(error, MaskSAMError):
        return str(error)
    if is_out_of_memory(error):
        return "the memory ran out: close other programs, or give a smaller volume"
    if isinstance(error, OSError):
        reason = (error.strerror or str(error) or type(error).__name__).lower()
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return f"{' and '.join(names)}: {reason}" if names else reason
    first_line = next(iter(str(error).splitlines()), "")
    return f"unexpected {type(error).__name__}: {first_line}"


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an exception means that the memory of a device or of the computer ran out."""
    # The class of PyTorch is known by its name, since nothing here needs PyTorch itself.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if not isinstance(error, RuntimeError | OSError | ImportError):
        return False
    # The message of an OSError also has file names, so its description without them is used.
    message = (getattr(error, "strerror", None) or str(error)).casefold()
    return any(text in message for text in _OUT_OF_MEMORY)


def visible(text: str) -> str:
    """Return a text with escapes, such as ``\\x1b``, in place of characters that are not visible.

    File names may hold line breaks, codes that control the terminal, and bytes that are no text.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(message: str) -> str:
    """Return a message in one line of visible characters."""
    return visible(" ".join(message.splitlines()))


def first_names(names: Sequence[str], most: int = 3) -> str:
    """Return the first of some names, and an ellipsis where there are more."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
