"""Boxes as 3D Slicer saves them: ROI markups in ``.mrk.json`` files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MaskSAMError
from ..geometry import RasBox
from .files import atomic_path

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
    "Schema/markups-schema-v1.0.3.json#"
)


def read_boxes(path: Path | str) -> list[RasBox]:
    """All ROIs of a ``.mrk.json`` file.

    The label is the markup's name; sizes in mm. Files in LPS and in RAS are both understood.

    Raises:
        MaskSAMError: no such file, not a markup file, no ROI in it, or an ROI without size.
    """
    path = Path(path)
    if not path.is_file():
        raise MaskSAMError(f"{path} does not exist")
    try:
        markups = json.loads(path.read_text(encoding="utf-8"))["markups"]
        boxes = [_box(m) for m in markups if m.get("type") == "ROI"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MaskSAMError(
            f"{path} is no Slicer markup file with ROIs (.mrk.json): {error or 'damaged'}"
        ) from error
    if not boxes:
        raise MaskSAMError(f"{path} holds no ROI: save an ROI markup from Slicer")
    if any(min(box.size) <= 0 for box in boxes):
        raise MaskSAMError(f"{path} holds an ROI without size: draw a larger one")
    return boxes


def _box(markup: dict[str, Any]) -> RasBox:
    flip = np.array([1.0, 1, 1] if markup.get("coordinateSystem", "LPS") == "RAS" else [-1, -1, 1])
    center = flip * np.array(markup["center"], dtype=float)
    size = [abs(float(v)) for v in markup["size"]]
    # Rows of the file's matrix are in its coordinate system; columns are the box's axes.
    orientation = np.array(markup.get("orientation", np.eye(3).ravel()), dtype=float)
    axes = np.diag(flip) @ orientation.reshape(3, 3)
    axes = axes / np.linalg.norm(axes, axis=0)
    if center.shape != (3,) or len(size) != 3 or not np.isfinite([*center, *size]).all():
        raise ValueError("an ROI needs a center and a size of three numbers")
    label = str(markup.get("name") or "")
    (x, y, z), (a, b, c) = center.tolist(), size
    return RasBox(label, (x, y, z), axes, (a, b, c))


def write_boxes(boxes: Sequence[RasBox], path: Path | str, overwrite: bool = False) -> None:
    """Writes boxes as ROI markups that Slicer opens; the label becomes the markup's name.

    Raises:
        MaskSAMError: the file exists, or cannot be written.
    """
    flip = np.diag([-1.0, -1.0, 1.0])
    markups = [
        {
            "type": "ROI",
            "coordinateSystem": "LPS",
            "coordinateUnits": "mm",
            "name": box.label or "ROI",
            "roiType": "Box",
            "center": (flip @ np.array(box.center)).tolist(),
            "orientation": (flip @ np.asarray(box.axes)).ravel().tolist(),
            "size": list(box.size),
            "insideOut": False,
            "controlPoints": [
                {
                    "id": "1",
                    "label": box.label or "ROI",
                    "position": (flip @ np.array(box.center)).tolist(),
                    "selected": True,
                    "locked": False,
                    "visibility": True,
                    "positionStatus": "defined",
                }
            ],
        }
        for box in boxes
    ]
    path = Path(path)
    with atomic_path(path, overwrite) as beside:
        text = json.dumps({"@schema": _SCHEMA, "markups": markups}, indent=1)
        beside.write_text(text + "\n", encoding="utf-8")
