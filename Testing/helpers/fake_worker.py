"""Programs that are no worker or that end too early; run as a script with a function's name."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

_HANDSHAKE = '{"id": "initialize", "result": {"protocol": 1}}'
_NEWER = '{"id": "initialize", "result": {"protocol": 2}}'
_REFUSAL = '{"id": "initialize", "error": {"code": -32001, "message": "too old"}}'
_DEVICES = '{"id": 1, "result": {"choices": [], "auto": {"name": "cpu", "reason": "as requested"}}}'
_CHILD = "import sys, time\nwhile True: print('x' * 1000, file=sys.stderr); time.sleep(0.001)"


def hang() -> None:
    time.sleep(300)


def exit_with_a_message() -> None:
    sys.exit("no module of that name")


def exit_silently() -> None:
    pass


def print_text() -> None:
    print("Hello\xff")
    hang()


def print_an_endless_line() -> None:
    sys.stdout.write("x" * (17 << 20))
    sys.stdout.flush()
    hang()


def print_other_json() -> None:
    print("[1, 2]")
    hang()


def be_newer() -> None:
    print(_NEWER, flush=True)
    hang()


def refuse() -> None:
    print(_REFUSAL, flush=True)
    sys.stdin.read()


def exit_after_the_first_request() -> None:
    print(_HANDSHAKE, flush=True)
    input()
    input()
    sys.exit(3)


def hang_after_the_handshake() -> None:
    print(_HANDSHAKE, flush=True)
    hang()


def die() -> None:
    """End by a signal, after the first request or at once."""
    number, handshake = map(int, sys.argv[2:])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if handshake:
        print(_HANDSHAKE, flush=True)
        input()
        input()
    os.kill(os.getpid(), number)


def exit_after_much_output() -> None:
    for n in range(300):
        print("line", n, file=sys.stderr)
    print(_HANDSHAKE)
    print(_DEVICES)
    sys.exit(3)


def leave_a_child() -> None:
    """Start a child that writes to this process's pipes, save its process ID, and exit."""
    own_group, file = sys.argv[2] == "own group", Path(sys.argv[3])
    child = subprocess.Popen([sys.executable, "-c", _CHILD], start_new_session=own_group)
    file.write_text(str(child.pid))
    sys.exit(3)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
