"""The errors that callers are meant to handle."""

from __future__ import annotations


class MaskSAMError(ValueError):
    """Something a person can put right; the message is one line that says what to do."""


class OutOfMemory(MaskSAMError):
    """The memory is too small even for the smallest piece of work; the message says what to do."""


class Cancelled(Exception):
    """Work was stopped because the caller asked for it; nothing was changed."""
