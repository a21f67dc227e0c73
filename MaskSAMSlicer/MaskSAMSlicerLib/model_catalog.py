"""What the model picker shows, and whether a volume suits a model."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from MaskSAMCore import models as core_models
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import CT_AIR
from MaskSAMCore.labels import Label

DEFAULT_MODEL = core_models.DEFAULT_MODEL

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode

    from MaskSAMCore.geometry import Volume


@dataclass(frozen=True)
class ModelRow:
    """A line of the picker.

    Attributes:
        name, title: for scripts, and for people.
        kind: "model", or "backbone" (weights of SAM and MedSAM).
        installed: whether it can be used now.
        own: whether a person added or downloaded it, so that it can be removed.
        modality: "MR", "CT" or empty where it is not stated.
        labels: the classes; empty for what is not installed.
        spacing_mm: smallest and largest voxel size it was made for; None where not stated.
        needs_roi: whether it was trained on crops, so that it wants an ROI.
        licence, size, description, sha256, url: as in the catalog.
        needs_boxes: whether it has no classes, and segments what boxes are drawn around.
    """

    name: str
    title: str
    kind: str
    installed: bool
    own: bool
    modality: str
    labels: tuple[Label, ...]
    spacing_mm: tuple[float, float] | None
    needs_roi: bool
    licence: str
    size: int
    description: str
    sha256: str
    url: str
    needs_boxes: bool = False

    @property
    def usable(self) -> bool:
        """Whether Segment can run it."""
        return self.installed

    def matches(self, text: str) -> bool:
        """Whether all words of a search occur in what is known of the model."""
        classes = " ".join(label.name for label in self.labels)
        known = f"{self.name} {self.title} {self.modality} {classes} {self.licence}".casefold()
        return all(word in known for word in text.casefold().split())

    def details(self) -> str:
        """Rich text for people."""
        # Escaped: a bundle from somewhere must not load pictures or links into the panel.
        lines = [f"<b>{escape(self.title)}</b>", escape(self.description)]
        if self.labels:
            names = ", ".join(label.name for label in self.labels)
            lines.append(_("Classes: {names}").format(names=escape(names)))
        if self.spacing_mm:
            lines.append(_("Voxel size: {:g} to {:g} mm").format(*self.spacing_mm))
        lines.append(
            _("Licence: {licence}; size: {size}").format(
                licence=escape(self.licence), size=readable_size(self.size)
            )
        )
        if not self.installed and not self.url:
            lines.append(
                _(
                    "Nothing vouches for its file, so that it is brought by hand, in a shell:"
                    " masksam models add FILE --name {name}"
                ).format(name=self.name)
            )
        elif not self.installed:
            lines.append(_("From {url}").format(url=escape(self.url)))
            lines.append(_("SHA-256: {sha256}").format(sha256=self.sha256))
        return "<br>".join(line for line in lines if line)


def readable_size(size: int) -> str:
    """Bytes in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def model_rows() -> list[ModelRow]:
    """All models of the catalog; those that can be used come first."""
    rows = [_row(entry) for entry in core_models.catalog()]
    return sorted(rows, key=lambda row: (not row.usable, not row.installed))


def find_row(name: str) -> ModelRow:
    """The row of a name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    rows = model_rows()
    for row in rows:
        if row.name == name:
            return row
    known = ", ".join(row.name for row in rows if row.usable)
    raise ValueError(
        _("There is no model '{name}': choose one of {known}.").format(name=name, known=known)
    )


def _row(entry: core_models.Entry) -> ModelRow:
    try:
        values = core_models.describe(entry)
        labels = tuple(Label.from_json(value) for value in values.get("labels", ()))
        card: dict[str, Any] = dict(values.get("card") or {})
        spacing = card.get("spacing_mm")
        limits = (float(spacing[0]), float(spacing[1])) if spacing else None
    except (MaskSAMError, KeyError, TypeError, ValueError, IndexError):
        labels, card, limits = (), {}, None
    user_folder = core_models.user_folder()
    own = entry.folder is None or user_folder in entry.folder.parents
    return ModelRow(
        name=entry.name,
        title=entry.title,
        kind=entry.kind,
        installed=core_models.installed(entry),
        own=own and core_models.installed(entry),
        modality=str(card.get("modality", "")),
        labels=labels,
        spacing_mm=limits,
        needs_roi=bool(card.get("needs_roi", False)),
        licence=entry.licence,
        size=entry.size,
        description=str(card.get("description", "")),
        sha256=entry.sha256,
        url=entry.url,
        needs_boxes=entry.needs_boxes,
    )


def doubts(
    row: ModelRow, node: vtkMRMLScalarVolumeNode, volume: Volume, has_roi: bool
) -> list[str]:
    """Why a model may do badly on a volume; warnings, not walls.

    Args:
        volume: the node's voxels and matrix.
    """
    found = []
    modality = _modality(node, volume.array)
    if row.modality and modality and modality != row.modality:
        found.append(
            _("This model is made for {wanted}, and the volume looks like {found}.").format(
                wanted=row.modality, found=modality
            )
        )
    if row.spacing_mm:
        low, high = row.spacing_mm
        if min(volume.spacing) < low - 1e-3 or max(volume.spacing) > high + 1e-3:
            spacing = " x ".join(f"{value:.2g}" for value in volume.spacing)
            found.append(
                _(
                    "This model is made for voxels of {low:g} to {high:g} mm; these are"
                    " {spacing} mm."
                ).format(low=low, high=high, spacing=spacing)
            )
    if row.needs_roi and not has_roi:
        found.append(_("This model expects an ROI around the structure: draw or choose one."))
    return found


def _modality(node: vtkMRMLScalarVolumeNode, array: np.ndarray) -> str:
    """From DICOM where the subject hierarchy knows it, else CT where the voxels say so."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node)
    stated = hierarchy.GetItemAttribute(item, "DICOM.Modality") if item else ""
    if stated:
        return str(stated)
    # A sample is enough to see air, and quick on a large volume.
    return "CT" if array[::8, ::8, ::8].min() <= CT_AIR else ""
