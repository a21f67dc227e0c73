"""The boxes of a segmentation, or of a volume for models that have no classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slicer.i18n import tr as _

from MaskSAMCore.geometry import Box
from MaskSAMCore.labels import default_colors
from MaskSAMSlicerLib.model_catalog import ModelInfo
from MaskSAMSlicerLib.mrml import box_nodes
from MaskSAMSlicerLib.mrml.run_record import Edges, SegmentationRecord, segmented_volume
from MaskSAMSlicerLib.mrml.sequences import FrameSequence

if TYPE_CHECKING:
    from slicer import (
        vtkMRMLMarkupsROINode,
        vtkMRMLNode,
        vtkMRMLScalarVolumeNode,
        vtkMRMLSegmentationNode,
    )

AUTOMATIC, EDITED, DRAWN, NONE = "automatic", "changed", "drawn", "none"


class BoxSet:
    """The boxes that the user can edit for a model and a volume.

    Args:
        model: the model.
        volume: the volume.
        segmentation: result of a run of the model on the volume; None before the first run.

    Attributes:
        record: record of the run that made the segmentation.
    """

    def __init__(
        self,
        model: ModelInfo,
        volume: vtkMRMLScalarVolumeNode,
        segmentation: vtkMRMLSegmentationNode | None,
    ) -> None:
        self.model = model
        self.volume = volume
        self.segmentation = segmentation
        self.record = SegmentationRecord.load(segmentation) or SegmentationRecord(model.name)

    @classmethod
    def of(
        cls,
        model: ModelInfo | None,
        volume: vtkMRMLScalarVolumeNode | None,
        *segmentations: vtkMRMLSegmentationNode | None,
    ) -> BoxSet | None:
        """Return the boxes for a model and a volume.

        Args:
            model: the chosen model.
            volume: the chosen volume.
            segmentations: results; the first one of this model and volume is used. Segmentations of
                a sequence are skipped, because its frames share no boxes.

        Returns:
            The boxes; None before the first run of a model that proposes its own boxes.
        """
        if model is None or volume is None or not model.installed:
            return None
        for node in segmentations:
            record = SegmentationRecord.load(node)
            of_this_model = record is not None and record.model == model.name
            if of_this_model and segmented_volume(node) is volume and not FrameSequence.of(node):
                return cls(model, volume, node)
        return cls(model, volume, None) if model.needs_boxes else None

    @property
    def owner(self) -> vtkMRMLNode:
        """Node that the box nodes refer to: the volume for models that need boxes, else the
        segmentation."""
        return self.volume if self.model.needs_boxes else self.segmentation

    @property
    def nodes(self) -> list[vtkMRMLMarkupsROINode]:
        """All box nodes."""
        return box_nodes.boxes_of(self.owner)

    @property
    def active_boxes(self) -> list[vtkMRMLMarkupsROINode]:
        """Box nodes of the classes for which the user changed or drew a box; a run uses these."""
        nodes = [node for node in self.nodes if box_nodes.has_size(node)]
        names = {box_nodes.class_of(node) for node in nodes if box_nodes.is_edited(node)}
        return [node for node in nodes if box_nodes.class_of(node) in names]

    @property
    def changed(self) -> bool:
        """Return whether segmenting again may change the result."""
        # A model that needs boxes cannot run without one.
        return bool(self.active_boxes or (self.record.edited and not self.model.needs_boxes))

    @property
    def names(self) -> list[str]:
        """Classes of the model; for models without classes, names of the boxes."""
        if not self.model.needs_boxes:
            return [label.name for label in self.model.labels]
        return list(dict.fromkeys(box_nodes.class_of(node) for node in self.nodes))

    def nodes_of(self, name: str) -> list[vtkMRMLMarkupsROINode]:
        """Return the box nodes of a class."""
        return [node for node in self.nodes if box_nodes.class_of(node) == name]

    def state(self, name: str) -> str:
        """Return the state of a class's boxes: AUTOMATIC, EDITED, DRAWN or NONE."""
        nodes = [node for node in self.nodes_of(name) if box_nodes.has_size(node)]
        if any(box_nodes.is_edited(node) for node in nodes):
            return EDITED if name in self.record.proposals else DRAWN
        return AUTOMATIC if name in self.record.proposals else NONE

    def color(self, name: str) -> tuple[float, float, float]:
        """Return the color of a class: its segment's, else its label's, else a new one."""
        if self.segmentation is not None:
            segment_id = self.record.segment_ids.get(name, "")
            segment = self.segmentation.GetSegmentation().GetSegment(segment_id)
            if segment is not None:
                return segment.GetColor()
        for label in self.model.labels:
            if label.name == name:
                return label.color
        return default_colors(len(self.names) + 1)[-1]

    def show(self) -> None:
        """Show all boxes, after adding the automatic ones that are missing."""
        for name in self.record.proposals:
            self.show_one(name)
        for node in self.nodes:
            node.SetDisplayVisibility(True)

    def show_one(self, name: str) -> None:
        """Show the box of a class, after adding the automatic one if it is missing."""
        nodes = self.nodes_of(name)
        if self._proposal(name) and not any(box_nodes.has_size(one) for one in nodes):
            self._place_automatic(nodes[0] if nodes else self.add(name), name)
        for node in self.nodes_of(name):
            node.SetDisplayVisibility(True)

    def hide(self) -> None:
        """Hide all boxes."""
        for node in self.nodes:
            node.SetDisplayVisibility(False)

    def renew(self) -> None:
        """Move the boxes that the user did not edit to the proposals of the latest run.

        Boxes of classes that the model does not have, and unedited boxes without a proposal, are
        removed.
        """
        names = [] if self.model.needs_boxes else self.names
        for node in box_nodes.boxes_of(self.segmentation):
            name, edited = box_nodes.class_of(node), box_nodes.is_edited(node)
            if name not in names or not (edited or name in self.record.proposals):
                box_nodes.remove_box(node)
            elif not edited:
                self._place_automatic(node, name)

    def add(self, name: str) -> vtkMRMLMarkupsROINode:
        """Add a box for a class, without placing it."""
        return box_nodes.add_box(self.owner, self.volume, name, self.color(name))

    def node_to_draw(self, name: str) -> vtkMRMLMarkupsROINode:
        """Return the node for a box that the user is about to draw.

        A class has one box, which is redrawn. For a model without classes, a name may have several
        boxes, so that each call adds one.
        """
        nodes = [] if self.model.needs_boxes else self.nodes_of(name)
        for node in nodes[1:]:
            box_nodes.remove_box(node)
        node = nodes[0] if nodes else self.add(name)
        box_nodes.set_edited(node, False)
        return node

    def reset(self, name: str) -> None:
        """Restore the automatic box of a class; remove the boxes of a class without one."""
        nodes = self.nodes_of(name)
        automatic = self._proposal(name) is not None
        for node in nodes[1 if automatic else 0 :]:
            box_nodes.remove_box(node)
        if automatic and nodes:
            self._place_automatic(nodes[0], name)

    def note_change(self, node: vtkMRMLMarkupsROINode) -> None:
        """Note whether a box differs from the automatic one after the user has moved it."""
        if box_nodes.follows(node, self.volume):
            box_nodes.follow(node, self.volume)
        if not box_nodes.has_size(node):
            return
        name = box_nodes.class_of(node)
        proposal = self._proposal(name)
        try:
            edited = proposal is None or box_nodes.differs(node, _box(name, proposal), self.volume)
        except ValueError:  # a run reports that the volume cannot be used
            return
        box_nodes.set_edited(node, edited)

    def note_changes(self) -> None:
        """Note which boxes differ from the automatic ones; see :meth:`note_change`.

        Before that, the boxes follow the volume if the user has put it under a transform or removed
        it from one. If the transform was hardened, the volume has not moved, and edited boxes stay.
        """
        for node in self.nodes:
            name = box_nodes.class_of(node)
            if not box_nodes.follows(node, self.volume):
                if self._proposal(name) and not box_nodes.is_edited(node):
                    self._place_automatic(node, name)
                elif self.volume.GetTransformNodeID() is not None or box_nodes.has_matrix_of(
                    node, self.volume
                ):
                    box_nodes.follow(node, self.volume)
            self.note_change(node)

    def save(self, path: str) -> int:
        """Write the active boxes to a markup file.

        Args:
            path: the .mrk.json file; an existing one is replaced.

        Returns:
            Number of boxes.

        Raises:
            ValueError: there are no active boxes, or the file cannot be written.
        """
        from MaskSAMCore.io.roi_markups import write_boxes  # imports SimpleITK, which is slow

        boxes = [box_nodes.box_in_world(node) for node in self.active_boxes]
        if not boxes:
            raise ValueError(_("No box was changed or drawn: there is nothing to save."))
        write_boxes(boxes, Path(path), overwrite=True)
        return len(boxes)

    def load(self, path: str) -> list[str]:
        """Replace the boxes of all classes for which a markup file has boxes.

        Args:
            path: the .mrk.json file.

        Returns:
            Names of the classes in the file.

        Raises:
            ValueError: the file has no boxes, a box is not named like a class of the model, or the
                volume's transform is not linear or would shear a box; no box was changed.
        """
        from MaskSAMCore.io.roi_markups import read_boxes  # imports SimpleITK, which is slow

        names = [] if self.model.needs_boxes else self.names
        boxes = read_boxes(path, names)
        for box in boxes:
            if not box.class_name or (names and box.class_name not in names):
                raise ValueError(
                    _(
                        "The box '{box}' in the file is not named like a class: name it {names}."
                    ).format(box=box.class_name, names=_one_of(names))
                )
        loaded = list(dict.fromkeys(box.class_name for box in boxes))
        replaced = [node for name in loaded for node in self.nodes_of(name)]
        placed = []
        try:
            for box in boxes:
                placed.append(self.add(box.class_name))
                box_nodes.place_in_world(placed[-1], box)
                box_nodes.set_edited(placed[-1], True)
        except ValueError:
            for node in placed:
                box_nodes.remove_box(node)
            raise
        for node in replaced:
            box_nodes.remove_box(node)
        return loaded

    def _proposal(self, name: str) -> Edges | None:
        """Return the automatic box of a class; None for a model that needs boxes."""
        return None if self.model.needs_boxes else self.record.proposals.get(name)

    def _place_automatic(self, node: vtkMRMLMarkupsROINode, name: str) -> None:
        box_nodes.place_box(node, _box(name, self.record.proposals[name]), self.volume)
        box_nodes.set_edited(node, False)


def _box(name: str, edges: Sequence[Sequence[float]]) -> Box:
    (a, b, c), (d, e, f) = edges
    return Box(name, (a, b, c), (d, e, f))


def _one_of(names: Sequence[str]) -> str:
    return _(" or ").join(names) if names else _("like the structure inside it")
