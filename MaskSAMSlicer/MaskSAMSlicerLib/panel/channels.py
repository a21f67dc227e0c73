"""Selectors of the volumes for models that take several images, one for each channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import qt
import slicer
from slicer.i18n import tr as _

from MaskSAMCore.geometry import Volume
from MaskSAMSlicerLib.model_catalog import ModelInfo
from MaskSAMSlicerLib.mrml.channels import not_on_one_grid, on_other_grids
from MaskSAMSlicerLib.mrml.volumes import volume_from_node
from MaskSAMSlicerLib.panel.dialogs import narrow

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode

# Prefix of the node reference role for a channel's volume; the channel's number follows.
_ROLE = "channelVolume"
# ID of a volume, its shape, and the bytes of its IJK-to-RAS matrix.
_Grid = tuple[str, tuple[int, ...], bytes]


class ChannelsView:
    """The selectors of a model's second and further channels, below the volume selector.

    The parameter node keeps the volumes as node references, so that they are saved with the scene.

    Args:
        ui: the panel's widgets.

    Attributes:
        parameters: wrapper of the parameter node; None while a scene closes.
    """

    def __init__(self, ui: Any) -> None:
        self.parameters: Any = None
        self._ui = ui
        self._model: ModelInfo | None = None
        self._rows: list[tuple[Any, Any]] = []
        self._agreed: set[tuple[_Grid, ...]] = set()

    def clear(self) -> None:
        """Forget which volumes the user has agreed to resample: the next scene reuses IDs."""
        self._agreed.clear()

    def refresh(self, model: ModelInfo | None) -> None:
        """Show a selector for each channel of a model."""
        self._model = model
        names = self._names
        several = len(names) > 1
        self._ui.volumeLabel.text = _plain(names[0]) if several else _("Volu&me:")
        while len(self._rows) < len(names) - 1:
            self._add_row()
        for number, (label, selector) in enumerate(self._rows, start=1):
            shown = number < len(names)
            label.visible = selector.visible = shown
            if shown:
                label.text = _plain(names[number])
                blocked = selector.blockSignals(True)
                selector.setCurrentNode(self._node(number))
                selector.blockSignals(blocked)

    @property
    def volumes(self) -> list[vtkMRMLScalarVolumeNode | None]:
        """The chosen volume of each channel of the model; None where none is chosen."""
        if self.parameters is None:
            return [None]
        others = [self._node(number) for number in range(1, len(self._names))]
        return [self.parameters.inputVolume, *others]

    @property
    def missing(self) -> str:
        """Name of the first channel without a volume; empty if all have one."""
        for name, volume in zip(self._names, self.volumes, strict=True):
            if volume is None:
                return name
        return ""

    def read(self) -> list[Volume]:
        """Return the voxels and the place of each channel.

        Raises:
            ValueError: a volume cannot be used.
        """
        return [volume_from_node(node) for node in self.volumes]

    def doubts(self, volumes: list[Volume]) -> list[str]:
        """Return doubts about the volumes as channels of one case."""
        nodes = self.volumes
        twice = {node.GetName() for node in nodes if nodes.count(node) > 1}
        doubts = [
            _("'{name}' is chosen for more than one channel.").format(name=name)
            for name in sorted(twice)
        ]
        others = on_other_grids(volumes)
        if others and self._key(volumes) not in self._agreed:
            doubts.append(not_on_one_grid(volumes[0], others))
        return doubts

    def ask_to_resample(self) -> bool:
        """Return whether to resample the channels; ask the user unless they have agreed before.

        Raises:
            ValueError: channels need resampling but the user refused, or a volume cannot be used.
        """
        volumes = self.read()
        others = on_other_grids(volumes)
        if not others:
            return False
        if self._key(volumes) not in self._agreed:
            reason = not_on_one_grid(volumes[0], others)
            question = _(
                "{reason}\n\nResample for the model? The volumes in the scene stay as they are."
                " They must show one patient in one position."
            ).format(reason=reason)
            if not slicer.util.confirmYesNoDisplay(question, windowTitle=_("MaskSAM")):
                raise ValueError(reason)
            self._agreed.add(self._key(volumes))
        return True

    @property
    def _names(self) -> tuple[str, ...]:
        return ("",) if self._model is None else self._model.channels

    def _key(self, volumes: list[Volume]) -> tuple[_Grid, ...]:
        """Return the IDs and grids of the volumes, which identify what the user has agreed to."""
        return tuple(
            (node.GetID(), volume.shape, volume.ijk_to_ras.tobytes())
            for node, volume in zip(self.volumes, volumes, strict=True)
        )

    def _node(self, number: int) -> vtkMRMLScalarVolumeNode | None:
        if self.parameters is None:
            return None
        return self.parameters.parameterNode.GetNodeReference(f"{_ROLE}{number + 1}")

    def _choose(self, number: int, node: Any) -> None:
        if self.parameters is not None:
            node_id = None if node is None else node.GetID()
            self.parameters.parameterNode.SetNodeReferenceID(f"{_ROLE}{number + 1}", node_id)

    def _add_row(self) -> None:
        number = len(self._rows) + 1
        selector = slicer.qMRMLNodeComboBox()
        selector.objectName = f"channelSelector{number + 1}"
        selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        selector.showChildNodeTypes = False
        selector.noneEnabled = True
        selector.noneDisplay = _("(choose a volume)")
        selector.addEnabled = selector.removeEnabled = False
        narrow(selector)
        selector.toolTip = _("The image of this channel, of the same patient in the same position.")
        selector.setMRMLScene(slicer.mrmlScene)
        selector.connect(
            "currentNodeChanged(vtkMRMLNode*)", lambda node: self._choose(number, node)
        )
        label = qt.QLabel()
        label.setBuddy(selector)
        self._ui.inputsButton.layout().insertRow(number, label, selector)
        before = self._rows[-1][1] if self._rows else self._ui.volumeSelector
        qt.QWidget.setTabOrder(before, selector)
        self._rows.append((label, selector))


def _plain(name: str) -> str:
    """Return the text of a channel's label, in which no character becomes a shortcut."""
    return name.replace("&", "&&") + ":"
