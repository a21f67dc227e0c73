"""Export of a finished training as a model bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import MALFORMED
from MaskSAMCore.labels import Label, default_colors
from MaskSAMCore.models.bundle import Bundle, intracranial_classes, save_bundle
from MaskSAMCore.models.inference_settings import InferenceSettings
from MaskSAMCore.models.suitability import Suitability
from MaskSAMCore.training.run_folder import (
    BEST,
    LAST,
    TrainingRecord,
    load_weights,
    own_weights,
    read_field_of_view,
    read_validation,
)

# Settings of inference that a card may change.
_CARD_SETTINGS = ("largest_component", "background_weight", "intensity_weight", "window_overlap")


def export_run(
    run: Path,
    folder: Path,
    card: dict[str, Any] | None = None,
    overwrite: bool = False,
    last: bool = False,
) -> Bundle:
    """Write the weights of a training run as a model bundle.

    Args:
        run: folder of the training.
        folder: folder of the new bundle, whose name becomes the model's unless the card has one.
        card: "name", "title", "labels" (display name, colour and terminology of each class name),
            "largest_component" and "background_weight" (by default those found in validation),
            "intensity_weight" (0 by default), "window_overlap" (0.5 by default),
            "intracranial" ("all" or the names of the classes that fill the skull together), and any
            other information about the model.
        overwrite: replace a bundle that exists.
        last: export the last weights instead of those with the best validation Dice, without the
            post-processing found in validation, so that nothing is chosen on the validation cases.

    Raises:
        MaskSAMError: the run has no weights yet, the card cannot be used, or the bundle cannot be
            written.
    """
    record = TrainingRecord.load(run)
    card = dict(card or {})
    labels = _labels(record, card.pop("labels", {}))
    validation = {} if last else read_validation(run)
    chosen = {name: card.pop(name) for name in _CARD_SETTINGS if name in card}
    trained = {"mirror": record.settings.mirror, "tta": record.settings.tta}
    try:
        inference = InferenceSettings.from_json({**validation, **chosen, **trained})
        unknown = sorted(inference.largest_component - set(record.values))
        if unknown:
            raise ValueError(f"largest_component has values of no class: {unknown}")
        intracranial_classes(card, labels)
        Suitability.from_card(card)
    except MALFORMED as error:
        raise MaskSAMError(f"the card cannot be used: {error}") from error
    model = load_weights(record, run / (LAST if last else BEST))
    name = str(card.pop("name", folder.name))
    training = {"preset": record.preset, "seed": record.seed, **record.facts}
    if last:
        training["weights"] = "last"
    view = read_field_of_view(run)
    return save_bundle(
        folder,
        name,
        str(card.pop("title", name)),
        own_weights(model),
        record.config,
        record.plan,
        labels,
        inference,
        {"training": training, **({} if view is None else {"field_of_view_mm": view}), **card},
        overwrite=overwrite,
        sam_sha256=record.facts.get("sam_sha256"),
    )


def _labels(record: TrainingRecord, described: dict[str, Any]) -> tuple[Label, ...]:
    """Return the labels of a run's classes, completed by their descriptions in a card."""
    if not isinstance(described, dict) or not all(isinstance(v, dict) for v in described.values()):
        raise MaskSAMError("the card's 'labels' must map class names to objects")
    unknown = sorted(set(described) - set(record.classes))
    if unknown:
        raise MaskSAMError(f"the card describes classes that the run does not have: {unknown}")
    labels = []
    colors = default_colors(len(record.classes))
    for name, value, color in zip(record.classes, record.values, colors, strict=True):
        values = {"name": name, "color": color, **described.get(name, {})}
        try:
            labels.append(Label.from_json({**values, "value": value}))
        except MALFORMED as error:
            raise MaskSAMError(f"the card's label '{name}' cannot be used: {error}") from error
    return tuple(labels)
