"""Boxes as 3D Slicer saves them: ROI markups in ``.mrk.json`` files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import RasBox
from MaskSAMCore.io.files import write_text

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
    "Schema/markups-schema-v1.0.3.json#"
)


# Names that Slicer gives by itself: they say nothing of a class.
_DEFAULT_NAMES = ("", "r", "roi", "f", "markupsroi")
_TO_RAS = {"RAS": [1.0, 1, 1], "LPS": [-1.0, -1, 1]}


def read_boxes(path: Path | str, classes: Sequence[str] = ()) -> list[RasBox]:
    """All ROIs of a ``.mrk.json`` file, in LPS or RAS.

    Slicer writes the name of an ROI nowhere: a person's name for it survives in the label of its
    control point ("Anterior-1") if it had the name when it was drawn, and in the file's name if it
    was saved under its own. So a box's label is the first of these that is one of ``classes``: the
    markup's own label or name, that of its control point, the file's name. If none is, or no
    classes are given, it is the first that is not a default of Slicer's.

    Args:
        path: the file.
        classes: names that boxes are expected to have, for example those of a model's labels.

    Raises:
        MaskSAMError: no such file, not a markup file, no ROI in it, or an ROI without size.
    """
    path = Path(path)
    if path.is_dir():
        raise MaskSAMError(f"{path} is a folder: give a markup file (.mrk.json)")
    if not path.is_file():
        raise MaskSAMError(f"{path} does not exist")
    try:
        markups = json.loads(path.read_text(encoding="utf-8"))["markups"]
        boxes = [_box(m, path, classes) for m in markups if m.get("type") == "ROI"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise MaskSAMError(f"{path} is no Slicer markup file, or is damaged") from error
    if not boxes:
        raise MaskSAMError(f"{path} holds no ROI: save an ROI markup from Slicer")
    if any(min(box.size) <= 0 for box in boxes):
        raise MaskSAMError(f"{path} holds an ROI without size: draw a larger one")
    return boxes


def _box(markup: dict[str, Any], path: Path, classes: Sequence[str]) -> RasBox:
    flip = np.array(_TO_RAS[markup.get("coordinateSystem", "LPS")])
    center = flip * np.array(markup["center"], dtype=float)
    size = np.abs(np.array(markup["size"], dtype=float))
    # Rows of the file's matrix are in its coordinate system; columns are the box's axes.
    orientation = np.array(markup.get("orientation", np.eye(3).ravel()), dtype=float)
    axes = np.diag(flip) @ orientation.reshape(3, 3)
    lengths = np.linalg.norm(axes, axis=0)
    numbers = np.isfinite([*center, *size, *axes.flat]).all()
    if not (center.shape == size.shape == (3,) and numbers and lengths.all()):
        raise ValueError("an ROI needs a center, a size and an orientation")
    (x, y, z), (a, b, c) = center.tolist(), size.tolist()
    return RasBox(_label(markup, path, classes), (x, y, z), axes / lengths, (a, b, c))


def _label(markup: dict[str, Any], path: Path, classes: Sequence[str]) -> str:
    points = markup.get("controlPoints") or [{}]
    own = [str(markup.get(key) or "") for key in ("label", "name")]
    derived = [str(points[0].get("label") or ""), path.name.split(".")[0]]
    names = own + derived
    # Slicer numbers control points ("Anterior-1") and nodes of equal names ("Anterior_1").
    plain = own + [re.sub(r"[-_]\d+$", "", name) for name in derived]
    known = {name.lower(): name for name in reversed(classes)}
    for name in (part for pair in zip(names, plain, strict=True) for part in pair):
        if name.lower() in known:
            return known[name.lower()]
    return next((name for name in plain if name.lower() not in _DEFAULT_NAMES), "")


def write_boxes(boxes: Sequence[RasBox], path: Path | str, overwrite: bool = False) -> None:
    """Writes boxes as ROI markups that Slicer opens; the label becomes the markup's name.

    Raises:
        MaskSAMError: the file exists, or cannot be written.
    """
    markups = [_markup(box) for box in boxes]
    text = json.dumps({"@schema": _SCHEMA, "markups": markups}, indent=1)
    write_text(Path(path), text + "\n", overwrite)


def _markup(box: RasBox) -> dict[str, Any]:
    flip = np.diag([-1.0, -1.0, 1.0])
    axes = np.asarray(box.axes, dtype=float)
    if np.linalg.det(axes) < 0:  # Slicer's ROIs turn, they do not mirror; the box is the same
        axes = axes * [1, 1, -1]
    name = box.class_name or "ROI"
    center = (flip @ np.array(box.center)).tolist()
    orientation = (flip @ axes).ravel().tolist()
    point = {"id": "1", "label": f"{name}-1", "position": center, "positionStatus": "defined"}
    return {
        "type": "ROI",
        "name": name,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "labelFormat": "%N-%d",
        "roiType": "Box",
        "center": center,
        "orientation": orientation,
        "size": list(box.size),
        "insideOut": False,
        "controlPoints": [point],
    }
