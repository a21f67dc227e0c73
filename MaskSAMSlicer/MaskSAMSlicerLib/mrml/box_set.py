"""All boxes that belong together: those of a result, or of a volume for models without classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import slicer
from slicer.i18n import tr as _

from MaskSAMCore.geometry import Box
from MaskSAMCore.labels import default_colors
from MaskSAMSlicerLib.model_catalog import ModelRow
from MaskSAMSlicerLib.mrml import box_nodes as boxnodes
from MaskSAMSlicerLib.mrml.run_record import RunRecord, volumes_of

if TYPE_CHECKING:
    from slicer import (
        vtkMRMLMarkupsROINode,
        vtkMRMLNode,
        vtkMRMLScalarVolumeNode,
        vtkMRMLSegmentationNode,
    )

AUTOMATIC, EDITED, DRAWN, NONE = "automatic", "changed", "drawn", "none"


class BoxSet:
    """The boxes of a result and what its run knows of them.

    Args:
        row: the model.
        volume: the image.
        segmentation: the result; None where there is none yet.
    """

    def __init__(
        self,
        row: ModelRow,
        volume: vtkMRMLScalarVolumeNode,
        segmentation: vtkMRMLSegmentationNode | None,
    ) -> None:
        self.row = row
        self.volume = volume
        self.segmentation = segmentation
        self.record = RunRecord.of(segmentation) or RunRecord(row.name)

    @classmethod
    def of(
        cls,
        row: ModelRow | None,
        volume: vtkMRMLScalarVolumeNode | None,
        segmentation: vtkMRMLSegmentationNode | None,
    ) -> BoxSet | None:
        """The boxes that a person can work on; None where there is no result yet, and the model
        needs one. The result must be of this volume and model."""
        if row is None or volume is None or not row.usable:
            return None
        record = RunRecord.of(segmentation)
        if record is not None and record.model == row.name:
            try:
                fits = volumes_of(segmentation)[0] is volume
            except ValueError:
                fits = False
            if fits:
                return cls(row, volume, segmentation)
        return cls(row, volume, None) if row.needs_boxes else None

    @property
    def owner(self) -> vtkMRMLNode:
        """What the box nodes refer to."""
        return self.volume if self.row.needs_boxes else self.segmentation

    @property
    def nodes(self) -> list[vtkMRMLMarkupsROINode]:
        """All boxes."""
        return boxnodes.boxes_of(self.owner)

    @property
    def counting(self) -> list[vtkMRMLMarkupsROINode]:
        """The boxes that an update takes: those that a person changed or drew."""
        return [n for n in self.nodes if boxnodes.has_size(n) and boxnodes.is_edited(n)]

    @property
    def changed(self) -> bool:
        """Whether an update may give something else than what there is."""
        return bool(self.counting or self.record.edited)

    @property
    def names(self) -> list[str]:
        """The classes that can have a box, or the names that boxes have."""
        if not self.row.needs_boxes:
            return [label.name for label in self.row.labels]
        return list(dict.fromkeys(boxnodes.class_of(node) for node in self.nodes))

    def nodes_of(self, name: str) -> list[vtkMRMLMarkupsROINode]:
        """The boxes of a class."""
        return [node for node in self.nodes if boxnodes.class_of(node) == name]

    def state(self, name: str) -> str:
        """AUTOMATIC, EDITED, DRAWN or NONE."""
        nodes = [node for node in self.nodes_of(name) if boxnodes.has_size(node)]
        if any(boxnodes.is_edited(node) for node in nodes):
            return EDITED if name in self.record.proposals else DRAWN
        return AUTOMATIC if name in self.record.proposals else NONE

    def color(self, name: str) -> tuple[float, float, float]:
        """Of the class's segment, or else of its label."""
        if self.segmentation is not None:
            segment_id = self.record.segment_ids.get(name, "")
            segment = self.segmentation.GetSegmentation().GetSegment(segment_id)
            if segment is not None:
                return segment.GetColor()
        for label in self.row.labels:
            if label.name == name:
                return label.color
        return default_colors(len(self.names) + 1)[-1]

    def show(self) -> None:
        """Make the boxes that are lacking, and show all."""
        for name in self.record.proposals if not self.row.needs_boxes else ():
            if not self.nodes_of(name):
                self._automatic(self.add(name), name)
        for node in self.nodes:
            node.SetDisplayVisibility(True)

    def hide(self) -> None:
        """Hide all boxes; nothing of them is lost."""
        for node in self.nodes:
            node.SetDisplayVisibility(False)

    def renew(self) -> None:
        """After another run: boxes that nobody changed go where the network now sees the class."""
        for node in self.nodes:
            if not boxnodes.is_edited(node):
                name = boxnodes.class_of(node)
                if name in self.record.proposals:
                    self._automatic(node, name)
                else:
                    slicer.mrmlScene.RemoveNode(node)

    def add(self, name: str) -> vtkMRMLMarkupsROINode:
        """A box without a place yet."""
        return boxnodes.add_box(self.owner, self.volume, name, self.color(name))

    def to_draw(self, name: str) -> vtkMRMLMarkupsROINode:
        """The box of a class that a person is going to draw, in place of what it has. Names of
        models without classes may have several boxes."""
        nodes = [] if self.row.needs_boxes else self.nodes_of(name)
        for node in nodes[1:]:
            slicer.mrmlScene.RemoveNode(node)
        return nodes[0] if nodes else self.add(name)

    def reset(self, name: str) -> None:
        """The automatic box again; a box of a class that has none goes."""
        nodes = self.nodes_of(name)
        automatic = name in self.record.proposals and not self.row.needs_boxes
        for node in nodes[1 if automatic else 0 :]:
            slicer.mrmlScene.RemoveNode(node)
        if automatic and nodes:
            self._automatic(nodes[0], name)

    def note_change(self, node: vtkMRMLMarkupsROINode) -> None:
        """A box was moved, by a person or otherwise."""
        if not boxnodes.has_size(node):
            return
        name = boxnodes.class_of(node)
        own = None if self.row.needs_boxes else self.record.proposals.get(name)
        edited = own is None or boxnodes.differs(node, _box(name, own), self.volume)
        boxnodes.set_edited(node, edited)

    def save(self, path: str) -> int:
        """Write the boxes that count to a file, and give their number.

        Raises:
            ValueError: there is none, or the file cannot be written.
        """
        from MaskSAMCore.io.roi_markups import write_boxes

        boxes = [boxnodes.in_world(node) for node in self.counting]
        if not boxes:
            raise ValueError(_("No box was changed or drawn: there is nothing to save."))
        write_boxes(boxes, Path(path), overwrite=True)
        return len(boxes)

    def load(self, path: str) -> list[str]:
        """Boxes of a file in place of those of the same classes; gives the classes.

        Raises:
            ValueError: the file holds no boxes, or one that is named like no class of the model.
        """
        from MaskSAMCore.io.roi_markups import read_boxes

        names = [] if self.row.needs_boxes else self.names
        boxes = read_boxes(path, names)
        for box in boxes:
            if not box.class_name or (names and box.class_name not in names):
                raise ValueError(
                    _(
                        "The box '{box}' of the file is named like no class: name it {names}."
                    ).format(box=box.class_name, names=_one_of(names))
                )
        for name in dict.fromkeys(box.class_name for box in boxes):
            for node in self.nodes_of(name):
                slicer.mrmlScene.RemoveNode(node)
        for box in boxes:
            node = self.add(box.class_name)
            boxnodes.put_in_world(node, box)
            boxnodes.set_edited(node, True)
        return list(dict.fromkeys(box.class_name for box in boxes))

    def _automatic(self, node: vtkMRMLMarkupsROINode, name: str) -> None:
        boxnodes.place_box(node, _box(name, self.record.proposals[name]), self.volume)
        boxnodes.set_edited(node, False)


def _box(name: str, edges: Sequence[Sequence[float]]) -> Box:
    (a, b, c), (d, e, f) = edges
    return Box(name, (a, b, c), (d, e, f))


def _one_of(names: Sequence[str]) -> str:
    return _(" or ").join(names) if names else _("like what it is drawn around")
