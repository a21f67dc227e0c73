"""The user's models in tests of the module."""

from __future__ import annotations

import json
from pathlib import Path

from Testing.helpers.known_models import CHANNELS
from Testing.helpers.small_bundle import small_bundle
from Testing.helpers.threshold_model import LABELS, SIDES

KNOWN_MODELS = (
    "threshold",
    "sided",
    "rated",
    "head",
    "two_channels",
    "coarse",
    "echo",
    "slow",
    "slow_loading",
    "hanging",
    "crashing",
    "huge_array",
)


def write_models(home: Path) -> None:
    """Write the user's models into a folder.

    These are a real small bundle ("small"), descriptions of the models of the known worker, and a
    model without classes ("anything"), for which the known worker uses a small SAM.
    """
    described = small_bundle(home / "models" / "small") / "masksam.json"
    values = json.loads(described.read_text(encoding="utf-8"))
    described.write_text(json.dumps({**values, "card": {"modality": "MR"}}), encoding="utf-8")
    for name in KNOWN_MODELS:
        folder = home / "models" / name
        folder.mkdir()
        labels = [label.to_json() for label in (SIDES if name == "sided" else LABELS)]
        described = {"name": name, "title": name.title(), "labels": labels}
        if name == "two_channels":
            described["plan"] = {"channels": CHANNELS}
        if name == "head":
            described["card"] = {"intracranial": "all"}
        (folder / "masksam.json").write_text(json.dumps(described))
    checkpoint = home / "checkpoints" / "anything"
    checkpoint.mkdir(parents=True)
    (checkpoint / "checkpoint.pth").write_bytes(b"not read")
    described = {"name": "anything", "title": "Anything", "licence": "none", "sha256": "0" * 64}
    described |= {"format_version": 1, "architecture": "vit_b", "preparation": "sam", "page": ""}
    (checkpoint / "checkpoint.json").write_text(json.dumps(described))
