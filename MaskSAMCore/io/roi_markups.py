"""Reading and writing of boxes as ROI markups of 3D Slicer (``.mrk.json``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import RasBox
from MaskSAMCore.io.files import MALFORMED, read_json, write_json

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
    "Schema/markups-schema-v1.0.3.json#"
)
# Default names of Slicer, which do not name a class.
_DEFAULT_NAMES = ("", "r", "roi", "f", "markupsroi")
_LARGEST_MM = 1e6
# Largest cosine between two axes of an ROI, whose numbers may be rounded.
_RIGHT_ANGLE = 1e-2
_TO_RAS = {"RAS": [1.0, 1, 1], "LPS": [-1.0, -1, 1]}


def read_boxes(path: Path | str, classes: Sequence[str] = ()) -> list[RasBox]:
    """Read all ROIs of a markup file, whether stored in LPS or RAS.

    Slicer does not store the name of an ROI. The name remains in the label of the control point
    ("Anterior-1") if the ROI had it when it was placed, and in the file name if the ROI was saved
    under its name. The class name of a box is therefore the first of the following names that is in
    ``classes``: label and name of the markup, label of its control point, file name. If none is,
    the class name is the first of them that is not a default name of Slicer.

    Args:
        path: markup file.
        classes: class names to look for, for example those of a model's labels.

    Raises:
        MaskSAMError: the file does not exist, is not a markup file, holds no ROI, or holds an ROI
            without size or with "inside out" turned on.
    """
    path = Path(path)
    if path.is_dir():
        raise MaskSAMError(f"{path} is a folder: give a markup file (.mrk.json)")
    if not path.is_file():
        raise MaskSAMError(f"{path} does not exist")
    try:
        markups = [m for m in read_json(path)["markups"] if m.get("type") == "ROI"]
        boxes = [_box(m, path, classes) for m in markups]
    except MaskSAMError:
        raise
    except MALFORMED as error:
        raise MaskSAMError(f"{path} is not a Slicer markup file, or it is damaged") from error
    if any(markup.get("insideOut") for markup in markups):
        raise MaskSAMError(
            f"{path} holds an ROI whose inside and outside are swapped: turn off 'Inside out' in"
            " Slicer and save it again"
        )
    if not boxes:
        raise MaskSAMError(f"{path} holds no ROI: save an ROI markup from Slicer")
    if any(min(box.size) <= 0 for box in boxes):
        raise MaskSAMError(f"{path} holds an ROI without size: draw a larger one")
    return boxes


def _box(markup: dict[str, Any], path: Path, classes: Sequence[str]) -> RasBox:
    flip = np.array(_TO_RAS[markup.get("coordinateSystem", "LPS")])
    center = flip * np.array(markup["center"], dtype=float)
    size = np.abs(np.array(markup["size"], dtype=float))
    # Each column of the stored matrix is an axis of the box in the file's coordinate system.
    orientation = np.array(markup.get("orientation", np.eye(3).ravel()), dtype=float)
    if not np.abs(orientation).max(initial=0) < _LARGEST_MM:  # True for NaN
        raise ValueError("the axes of an ROI have finite lengths")
    axes = np.diag(flip) @ orientation.reshape(3, 3)
    lengths = np.linalg.norm(axes, axis=0)
    numbers = np.abs([*center, *size]).max() < _LARGEST_MM  # False for NaN
    if not (center.shape == size.shape == (3,) and numbers and lengths.all()):
        raise ValueError("an ROI needs a center, a size and an orientation")
    if not np.abs(axes.T @ axes / np.outer(lengths, lengths) - np.eye(3)).max() < _RIGHT_ANGLE:
        raise MaskSAMError(f"{path} holds an ROI whose axes are not at right angles: draw it again")
    units = markup.get("coordinateUnits", "mm")
    if (units[0] if isinstance(units, list) else units) != "mm":
        raise MaskSAMError(f"{path} is not in mm: save it again from Slicer")
    (x, y, z), (a, b, c) = center.tolist(), size.tolist()
    return RasBox(_class_name(markup, path, classes), (x, y, z), axes / lengths, (a, b, c))


def _class_name(markup: dict[str, Any], path: Path, classes: Sequence[str]) -> str:
    points = markup.get("controlPoints") or [{}]
    own = [str(markup.get(key) or "") for key in ("label", "name")]
    stem = re.sub(r"(\.mrk)?\.json$", "", path.name, flags=re.IGNORECASE)
    derived = [str(points[0].get("label") or ""), stem]
    names = own + derived
    # Slicer numbers control points ("Anterior-1") and nodes of equal names ("Anterior_1").
    plain = own + [re.sub(r"[-_]\d+$", "", name) for name in derived]
    known = {name.lower(): name for name in reversed(classes)}
    for name in (part for pair in zip(names, plain, strict=True) for part in pair):
        if name.lower() in known:
            return known[name.lower()]
    return next((name for name in plain if name.lower() not in _DEFAULT_NAMES), "")


def write_boxes(boxes: Sequence[RasBox], path: Path | str, overwrite: bool = False) -> None:
    """Write boxes as ROI markups, with the class names as names of the markups.

    Raises:
        MaskSAMError: the file exists, or cannot be written.
    """
    markups = [_markup(box) for box in boxes]
    write_json(Path(path), {"@schema": _SCHEMA, "markups": markups}, overwrite)


def _markup(box: RasBox) -> dict[str, Any]:
    flip = np.diag([-1.0, -1.0, 1.0])
    axes = np.asarray(box.axes, dtype=float)
    if np.linalg.det(axes) < 0:  # Slicer's ROIs are rotated, never mirrored; the box is the same
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
