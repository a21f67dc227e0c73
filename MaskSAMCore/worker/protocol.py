"""The messages, one JSON-RPC 2.0 object a line in UTF-8, and what errors are called in them."""

from __future__ import annotations

import errno
import json
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from MaskSAMCore.errors import Cancelled, MaskSAMError, OutOfMemory

# Raised whenever an old client could misread what is said.
PROTOCOL = 1

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
REFUSED = -32000
OTHER_PROTOCOL = -32001
CANCELLED = -32002
OUT_OF_MEMORY = -32003

MEMORY_ADVICE = (
    "the memory ran out: draw a smaller region of interest (ROI), close other programs, or choose"
    " a smaller model"
)
_MEMORY_WORDS = ("cannot allocate memory", "bad_alloc", "not enough memory", "paging file")


class RequestError(Exception):
    """An answer that is an error.

    Attributes:
        code: of JSON-RPC, or one of this module's.
        message: one line.
        data: for the log.
    """

    def __init__(self, code: int, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


@dataclass(frozen=True)
class Request:
    """A request, or a notification where it has no id."""

    method: str
    params: Mapping[str, Any]
    id: int | str | None = None
    stop: threading.Event = field(default_factory=threading.Event)


def read_request(line: bytes) -> Request:
    """The request of a line.

    Raises:
        RequestError: it is none.
    """
    try:
        message = json.loads(line.decode("utf-8"))
    except ValueError as error:
        raise RequestError(PARSE_ERROR, f"this line is no JSON: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("method"), str):
        raise RequestError(INVALID_REQUEST, "a message must be an object with a method")
    params, number = message.get("params", {}), message.get("id")
    if not isinstance(params, dict):
        raise RequestError(INVALID_PARAMS, "params must be an object")
    if number is not None and not isinstance(number, (int, str)):
        raise RequestError(INVALID_REQUEST, "an id must be a number or a text")
    return Request(message["method"], params, number)


class Channel:
    """The way out: whole messages, from any thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def notify(self, method: str, **params: Any) -> None:
        """Say something that needs no answer."""
        self._send({"method": method, "params": params})

    def answer(self, number: int | str, result: Mapping[str, Any]) -> None:
        """Answer a request."""
        self._send({"id": number, "result": result})

    def fail(self, number: int | str | None, error: RequestError) -> None:
        """Answer a request by an error."""
        value: dict[str, Any] = {"code": error.code, "message": error.message}
        if error.data is not None:
            value["data"] = error.data
        self._send({"id": number, "error": value})

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False) + "\n"
        with self._lock:
            try:
                self._stream.write(line.encode("utf-8", "backslashreplace"))
                self._stream.flush()
            except OSError:
                # Nobody listens any more; the reading thread sees that too, and ends the process.
                return


def as_request_error(error: BaseException) -> RequestError:
    """What a person, and the log, are told of an exception."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, Cancelled):
        return RequestError(CANCELLED, "cancelled")
    if _is_out_of_memory(error):
        return RequestError(OUT_OF_MEMORY, MEMORY_ADVICE, _traceback(error))
    if isinstance(error, MaskSAMError):
        # The engine says itself what to do where not even one window fits.
        code = OUT_OF_MEMORY if isinstance(error, OutOfMemory) else REFUSED
        return RequestError(code, _one_line(str(error)))
    if isinstance(error, ModuleNotFoundError):
        text = f"the Python package '{error.name}' is missing: install what MaskSAM needs"
        return RequestError(REFUSED, text, _traceback(error))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return RequestError(REFUSED, f"the disk is full: free some space ({error.filename})")
    what = _one_line(f"{type(error).__name__}: {error}")
    return RequestError(INTERNAL_ERROR, f"an error inside MaskSAM ({what})", _traceback(error))


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MaskSAMError):
        return False
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if any(words in str(error).casefold() for words in _MEMORY_WORDS):
        return True  # also what a library says that could not be mapped when it was imported
    if "torch" not in sys.modules:
        return False
    try:
        from MaskSAMCore.inference.device import is_out_of_memory
    except ImportError:
        return False
    return is_out_of_memory(error)


def _traceback(error: BaseException) -> dict[str, Any]:
    return {"traceback": "".join(traceback.format_exception(error))}


def _one_line(text: str) -> str:
    return " ".join(text.split())
