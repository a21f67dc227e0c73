"""Simulated user of the panel's section Learn."""

from __future__ import annotations

import json
from pathlib import Path

from Testing.panel.helpers import User


class Learner:
    """Simulated user of the section Learn.

    Args:
        user: user of the panel.
        folder: folder that keeps the corrections.
    """

    def __init__(self, user: User, folder: Path) -> None:
        self.user = user
        self.ui = user.ui
        self.folder = folder

    @property
    def logic(self):
        return self.user.widget.logic.learning

    @property
    def button(self):
        return self.ui.startLearningButton

    @property
    def status(self) -> str:
        return self.ui.learnStatus.text

    @property
    def log(self) -> str:
        return self.ui.logText.plainText

    @property
    def shown(self) -> dict[str, dict[str, tuple[bool, str]]]:
        """Ticks and states of each volume's segments."""
        import qt

        tree, found = self.ui.learnTree, {}
        for row in range(tree.topLevelItemCount):
            top = tree.topLevelItem(row)
            items = [top.child(index) for index in range(top.childCount())]
            found[top.text(0)] = {
                item.text(0): (item.checkState(0) == qt.Qt.Checked, item.text(1)) for item in items
            }
        return found

    @property
    def kept(self) -> dict[str, list[str]]:
        """Checked classes of each kept case."""
        return json.loads((self.folder / "dataset.json").read_text(encoding="utf-8"))["checked"]

    def choose_model(self, name: str) -> None:
        from MaskSAMSlicerLib.learning import choose_corrections_folder

        choose_corrections_folder(name, self.folder)
        self.user.choose_model(name)

    def open(self) -> None:
        self.ui.learnButton.collapsed = False

    def open_again(self) -> None:
        """Collapse and open the section, which then reads the segments anew."""
        self.ui.learnButton.collapsed = True
        self.open()

    def tick_volume(self, row: str) -> None:
        import qt

        self._top(row).setCheckState(0, qt.Qt.Checked)

    def tick(self, row: str, segment: str, ticked: bool = True) -> None:
        """Tick a segment of a row or untick it."""
        import qt

        top = self._top(row)
        items = [top.child(index) for index in range(top.childCount())]
        (item,) = [item for item in items if item.text(0) == segment]
        item.setCheckState(0, qt.Qt.Checked if ticked else qt.Qt.Unchecked)

    def _top(self, row: str):
        """Return the item of a row, which is named after its volume."""
        tree = self.ui.learnTree
        tops = [tree.topLevelItem(index) for index in range(tree.topLevelItemCount)]
        (top,) = [top for top in tops if top.text(0) == row]
        return top

    def wait(self) -> None:
        self.user.wait(lambda: not self.logic.busy, "the end of learning")

    def wait_until_it_keeps(self) -> None:
        """Wait until the worker has begun to keep the corrections."""
        self.user.wait(lambda: self.status.startswith("Keeping"), "the beginning of keeping")

    def wait_until_it_learns(self) -> None:
        """Wait until the corrections are kept and learning, which can now be resumed, has begun."""
        self.user.wait(lambda: self.status.startswith("Learning"), "the beginning of learning")

    def learn(self) -> None:
        self.user.click(self.button)
        self.wait()
