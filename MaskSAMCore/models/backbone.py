"""Which file a frozen SAM comes from: adapters are worth nothing on other weights than theirs."""

from __future__ import annotations

import hashlib
from pathlib import Path

from MaskSAMCore.errors import MaskSAMError


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_backbone(file: Path, expected: str | None, owner: str) -> str:
    """The SHA-256 of the weights of a frozen SAM.

    Args:
        file: the weights.
        expected: what it must be; None where it was not written down.
        owner: what was trained beside the SAM, for the message.

    Raises:
        MaskSAMError: the file is absent, or another one than that which ``owner`` was trained with.
    """
    try:
        found = sha256(file)
    except OSError as error:
        raise MaskSAMError(f"{file}, SAM's weights, cannot be read: {error.strerror}") from error
    if expected is not None and found != expected:
        raise MaskSAMError(
            f"{owner} was trained beside another SAM than {file}: its SHA-256 is {found}, and"
            f" must be {expected}"
        )
    return found
