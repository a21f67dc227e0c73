"""A finished training becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.labels import Label
from MaskSAMCore.models.bundle import Bundle, check_background_weight, save_bundle

# Slicer's first colours for generic segments: distinct, and good on grey.
_COLORS = (
    (0.50, 0.68, 0.50),
    (0.95, 0.84, 0.57),
    (0.69, 0.48, 0.40),
    (0.44, 0.72, 0.82),
    (0.85, 0.40, 0.31),
    (0.87, 0.51, 0.40),
    (0.56, 0.93, 0.56),
    (0.75, 0.40, 0.34),
)


def export_run(
    run: Path, folder: Path, card: dict[str, Any] | None = None, overwrite: bool = False
) -> Bundle:
    """Writes the best weights of a training run as a bundle.

    Args:
        run: the run's folder.
        folder: of the bundle; its name is the model's, unless the card has one.
        card: ``name``, ``title``, ``labels`` (name to display name, colour and terminology),
            ``largest_component`` and ``background_weight`` (else what helped in validation), and
            what people should know of the model.

    Raises:
        MaskSAMError: the run has no weights yet, or the bundle cannot be written.
    """
    from MaskSAMCore.training.run_folder import (
        BEST,
        RunRecord,
        load_weights,
        own_weights,
        read_validation,
    )

    record = RunRecord.load(run)
    model = load_weights(record, run / BEST)
    card = dict(card or {})
    described = card.pop("labels", {})
    unknown = sorted(set(described) - set(record.classes))
    if unknown:
        raise MaskSAMError(f"the card describes classes that the run has not: {unknown}")
    labels = []
    for index, (name, value) in enumerate(zip(record.classes, record.values, strict=True)):
        values = {"name": name, "color": _COLORS[index % len(_COLORS)], **described.get(name, {})}
        labels.append(Label.from_json({**values, "value": value}))
    helps = {"largest_component": [], "background_weight": 1.0, **read_validation(run)}
    try:
        weight = check_background_weight(card.pop("background_weight", helps["background_weight"]))
    except ValueError as error:
        raise MaskSAMError(f"the card cannot be used: {error}") from error
    name = str(card.pop("name", folder.name))
    return save_bundle(
        folder,
        name,
        str(card.pop("title", name)),
        own_weights(model),
        record.config,
        record.plan,
        tuple(labels),
        tuple(card.pop("largest_component", helps["largest_component"])),
        record.settings.mirror,
        {"training": {"preset": record.preset, "seed": record.seed, **record.facts}, **card},
        overwrite=overwrite,
        sam_sha256=record.facts.get("sam_sha256"),
        background_weight=weight,
    )
