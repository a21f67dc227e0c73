"""Exceptions that callers are meant to handle."""

from __future__ import annotations


class MaskSAMError(ValueError):
    """An error that the user can correct; its message is one line that says how."""


class OutOfMemory(MaskSAMError):
    """Too little memory even for the smallest unit of work; the message says what to do."""


class Cancelled(Exception):
    """Work that was stopped at the caller's request; nothing was changed."""
