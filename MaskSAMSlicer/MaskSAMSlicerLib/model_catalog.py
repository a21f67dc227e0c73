"""Models that the panel offers."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from slicer.i18n import tr as _

from MaskSAMCore import models as core_models
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import MALFORMED
from MaskSAMCore.labels import Label
from MaskSAMCore.models.catalog import VERSION_DIGITS

DEFAULT_MODEL = core_models.DEFAULT_MODEL


@dataclass(frozen=True)
class ModelInfo:
    """Description of a model.

    Attributes:
        name: name in scripts.
        title: name in the panel.
        installed: whether the model can be run.
        own: whether the user added or downloaded the model, so that it can be removed.
        suitability: inputs that the model was made for.
        labels: classes; empty for models that are not installed.
        licence: licence of the weights.
        size: size of the files in bytes.
        description: one or two sentences.
        sha256: checksum of the download.
        url: address of the download; empty if there is none.
        channels: name of each image that the model takes; empty where unknown.
        needs_boxes: whether the model has no classes and segments a structure in each of the user's
            boxes.
        version: first digits of the SHA-256 of the weights; empty if unknown.
        fills_skull: whether the classes together fill the skull, so that a class can grow only at
            the cost of others.
    """

    name: str
    title: str
    installed: bool
    own: bool
    suitability: core_models.Suitability
    labels: tuple[Label, ...]
    licence: str
    size: int
    description: str
    sha256: str
    url: str
    channels: tuple[str, ...] = ("",)
    needs_boxes: bool = False
    version: str = ""
    fills_skull: bool = False

    def matches(self, text: str) -> bool:
        """Return whether all words of a search text occur in the description."""
        classes = " ".join(label.name for label in self.labels)
        modality = self.suitability.modality
        known = f"{self.name} {self.title} {modality} {classes} {self.licence}".casefold()
        return all(word in known for word in text.casefold().split())

    def summary(self) -> str:
        """Return modality, number of classes, size and licence in one line."""
        classes = _("{count} classes").format(count=len(self.labels)) if self.labels else ""
        parts = [
            self.suitability.modality,
            _("classes from your boxes") if self.needs_boxes else classes,
            readable_size(self.size),
            _("licence {licence}").format(licence=self.licence),
        ]
        if not self.installed:
            parts.append(_("not installed"))
        return ", ".join(part for part in parts if part)

    def details(self) -> str:
        """Return the description as rich text."""
        # The texts are escaped so that a bundle cannot load pictures or links into the panel.
        lines = [f"<b>{escape(self.title)}</b>", escape(self.description)]
        if self.labels:
            names = ", ".join(label.name for label in self.labels)
            lines.append(_("Classes: {names}").format(names=escape(names)))
        if len(self.channels) > 1:
            lines.append(_("Images: {names}").format(names=escape(", ".join(self.channels))))
        if self.suitability.spacing_mm:
            lines.append(_("Voxel size: {:g} to {:g} mm").format(*self.suitability.spacing_mm))
        lines.append(
            _("Licence: {licence}; size: {size}").format(
                licence=escape(self.licence), size=readable_size(self.size)
            )
        )
        if not self.installed and not self.url:
            lines.append(
                _(
                    "The authors publish no checksum: download the file from their page, then add"
                    " it in a terminal with: masksam models add FILE --name {name}, and open this"
                    " module again"
                ).format(name=self.name)
            )
        elif not self.installed:
            lines.append(_("From {url}").format(url=escape(self.url)))
            # One line of the whole checksum would be wider than the panel.
            half = len(self.sha256) // 2
            parts = f"{self.sha256[:half]}<br>{self.sha256[half:]}"
            lines.append(_("SHA-256: {sha256}").format(sha256=f"<br>{parts}"))
        return "<br>".join(line for line in lines if line)


def readable_size(size: int) -> str:
    """Return a number of bytes in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def list_models() -> list[ModelInfo]:
    """Return all models of the catalog, installed ones first."""
    models = [_describe(entry) for entry in core_models.catalog()]
    return sorted(models, key=lambda model: not model.installed)


def find_model(name: str) -> ModelInfo:
    """Return the model of a name.

    Raises:
        ValueError: there is no such model; the message lists the installed ones.
    """
    models = list_models()
    for model in models:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in models if model.installed)
    raise ValueError(
        _("There is no model '{name}': choose one of {known}.").format(name=name, known=known)
    )


def _describe(entry: core_models.Entry) -> ModelInfo:
    try:
        values = core_models.describe(entry)
        labels = tuple(Label.from_json(value) for value in values.get("labels", ()))
        card: dict[str, Any] = dict(values.get("card") or {})
        suitability = core_models.Suitability.from_card(card)
        plan: dict[str, Any] = dict(values.get("plan") or {})
        channels = tuple(str(name) for name in plan.get("channels") or ("",))
        weights = str(values.get("weights_sha256") or entry.sha256)
    except (MaskSAMError, *MALFORMED):
        labels, card, suitability, channels = (), {}, core_models.ANY_INPUT, ("",)
        weights = ""
    installed = core_models.installed(entry)
    shipped = entry.folder is not None and core_models.user_folder() not in entry.folder.parents
    return ModelInfo(
        name=entry.name,
        title=entry.title,
        installed=installed,
        own=installed and not shipped,
        suitability=suitability,
        labels=labels,
        licence=entry.licence,
        size=entry.size,
        description=str(card.get("description", "")),
        sha256=entry.sha256,
        url=entry.url,
        channels=channels,
        needs_boxes=entry.needs_boxes,
        version=weights[:VERSION_DIGITS],
        fills_skull=bool(card.get("intracranial")),
    )
