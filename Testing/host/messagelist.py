"""List of the messages shown to the user, and the answers that a test gives to questions.

No modal dialog opens, since it would block the test. ``slicer.util.errorDisplay``,
``infoDisplay``, ``warningDisplay``, ``confirmOkCancelDisplay``, ``confirmYesNoDisplay``,
``confirmRetryCloseDisplay``, ``messageBox``, ``delayDisplay`` and ``showStatusMessage``, and Qt's
own message boxes, file dialogs and input dialogs record a :class:`Message` here::

    messages.answers.append(False)          # the next question is answered with Cancel or No
    button.click()
    assert "overwrite" in messages.texts("question")[0]

A question without a queued answer gets the affirmative answer (OK, Yes, Retry). A file or input
dialog without an answer is cancelled. A module's own dialog (``QDialog.exec_``) is passed to the
first function queued in ``messages.dialogs``; without one, ``exec_`` raises.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_AFFIRMATIVE = ("Ok", "Yes", "Retry", "Save", "Open", "Apply")
_NEGATIVE = ("Cancel", "No", "Close", "Abort", "Discard")


@dataclass(frozen=True)
class Message:
    """Message to the user: kind, text, and optional window title and details."""

    kind: str  # "information", "warning", "error", "question", "status", "popup" or "dialog"
    text: str
    title: str = ""
    details: str = ""


class Messages(list):
    """Messages in the order shown, with the queued answers and dialog handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: deque = deque()
        self.dialogs: deque[Callable] = deque()

    def texts(self, kind: str | None = None) -> list[str]:
        """Return the texts of one kind of message, or of all."""
        return [message.text for message in self if kind in (None, message.kind)]

    def clear(self) -> None:
        """Remove messages, answers and handlers."""
        super().clear()
        self.answers.clear()
        self.dialogs.clear()

    def answer(self, default):
        """Return the next queued answer, or `default`."""
        return self.answers.popleft() if self.answers else default


def install(qt, util) -> Messages:
    """Replace the functions of ``slicer.util`` and Qt that open dialogs; return the list."""
    messages = Messages()
    _install_util(qt, util, messages)
    _install_qt(qt, messages)
    return messages


def _button(qt, buttons, answer):
    """Return the button for an answer (True, False or a button)."""
    if not isinstance(answer, bool):
        return answer
    for name in _AFFIRMATIVE if answer else _NEGATIVE:
        button = getattr(qt.QMessageBox, name)
        if buttons and buttons & button:
            return button
    return qt.QMessageBox.Ok if answer else qt.QMessageBox.Cancel


def _ask(qt, messages, kind, text, title, buttons, details=""):
    question = bool(buttons) and buttons != qt.QMessageBox.Ok
    messages.append(Message("question" if question else kind, str(text), title or "", details))
    return _button(qt, buttons, messages.answer(True)) if question else qt.QMessageBox.Ok


def _install_util(qt, util, messages) -> None:
    kinds = {logging.ERROR: "error", logging.WARNING: "warning", logging.INFO: "information"}

    def display(level, text, testing_value, mainWindowNeeded=False, parent=None, windowTitle=None,
                icon=None, standardButtons=None, detailedText="", **_):  # fmt: skip
        return _ask(qt, messages, kinds.get(level, "information"), text, windowTitle,
                    standardButtons, detailedText)  # fmt: skip

    def message_box(
        text, parent=None, windowTitle=None, standardButtons=None, detailedText="", **_
    ):
        return _ask(qt, messages, "information", text, windowTitle, standardButtons, detailedText)

    def delay_display(message, autoCloseMsec=1000, parent=None, **_):
        messages.append(Message("popup", str(message)))
        qt.QApplication.processEvents()

    def show_status_message(message, duration=0):
        messages.append(Message("status", str(message)))
        window = util.mainWindow()
        if window is None:
            return False
        window.statusBar().showMessage(message, duration)
        return True

    util._messageDisplay = display
    util.messageBox = message_box
    util.delayDisplay = delay_display
    util.showStatusMessage = show_status_message


def _install_qt(qt, messages) -> None:
    kinds = {"information": "information", "warning": "warning", "critical": "error"}
    for name in (*kinds, "question"):
        kind = kinds.get(name, "question")

        def box(parent, title, text, buttons=None, default=None, kind=kind):
            if kind == "question" and buttons is None:
                buttons = qt.QMessageBox.Yes | qt.QMessageBox.No
            return _ask(qt, messages, kind, text, title, buttons)

        setattr(qt.QMessageBox, name, staticmethod(box))

    def message_box_exec(self):
        return _ask(qt, messages, "information", self.text, self.windowTitle, self.standardButtons,
                    self.detailedText)  # fmt: skip

    def dialog_exec(self):
        messages.append(Message("dialog", self.windowTitle or type(self).__name__))
        if not messages.dialogs:
            raise RuntimeError(
                f"{type(self).__name__}.exec_ would wait for a user: put a function into "
                "messages.dialogs that uses the dialog and returns the result"
            )
        return messages.dialogs.popleft()(self)

    for cls, function in ((qt.QDialog, dialog_exec), (qt.QMessageBox, message_box_exec)):
        cls.exec_ = cls.exec = function

    def chooser(empty):
        def choose(parent=None, caption="", *_, **__):
            messages.append(Message("dialog", caption))
            return messages.answer(empty)

        return staticmethod(choose)

    for name in ("getOpenFileName", "getSaveFileName", "getExistingDirectory"):
        setattr(qt.QFileDialog, name, chooser(""))
    qt.QFileDialog.getOpenFileNames = chooser([])
    for name in ("getText", "getItem", "getMultiLineText"):
        setattr(qt.QInputDialog, name, chooser(""))
