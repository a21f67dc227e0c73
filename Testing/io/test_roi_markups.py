"""Boxes in Slicer's markup files: their place in space and their class names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.spatial.transform import Rotation

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import RasBox
from MaskSAMCore.io import read_boxes, write_boxes
from Testing.helpers.json_documents import changed, read_or_refuse

# Slicer 5.12 saved this for an ROI named "Anterior left", moved to (10, 20, 30) RAS and rotated by
# RotateZ(30), RotateX(20). The name itself is not in the file.
_SAVED: dict[str, Any] = {
    "type": "ROI",
    "coordinateSystem": "LPS",
    "coordinateUnits": "mm",
    "labelFormat": "%N-%d",
    "roiType": "Box",
    "center": [-10.0, -20.0, 30.0],
    "orientation": [
        *(-0.8660254037844386, 0.4698463103929541, -0.1710100716628343),
        *(-0.4999999999999999, -0.8137976813493737, 0.2961981327260238),
        *(0.0, 0.34202014332566866, 0.9396926207859083),
    ],
    "size": [4.0, 6.0, 8.0],
    "insideOut": False,
    "controlPoints": [{"id": "1", "label": "Anterior left-1", "position": [-10.0, -20.0, 30.0]}],
}
_AXES = Rotation.from_euler("ZX", [30, 20], degrees=True).as_matrix()


def _file(folder: Path, file_name: str = "boxes.mrk.json", **changes: Any) -> Path:
    path = folder / file_name
    path.write_text(json.dumps({"markups": [_SAVED | changes]}), encoding="utf-8")
    return path


def _named(label: str) -> dict[str, Any]:
    return {"controlPoints": [{"label": label}]}


def test_an_roi_that_slicer_saved_is_read_at_its_place(tmp_path: Path) -> None:
    (box,) = read_boxes(_file(tmp_path))
    assert box.class_name == "Anterior left"
    assert np.allclose(box.center, (10, 20, 30))
    assert np.allclose(box.axes, _AXES)
    assert box.size == (4, 6, 8)


def test_a_file_in_ras_is_read_without_flips(tmp_path: Path) -> None:
    orientation = _AXES.ravel().tolist()
    path = _file(tmp_path, coordinateSystem="RAS", center=[10, 20, 30], orientation=orientation)
    (box,) = read_boxes(path)
    assert np.allclose(box.center, (10, 20, 30))
    assert np.allclose(box.axes, _AXES)


def test_a_file_may_hold_several_rois_each_in_its_own_coordinate_system(tmp_path: Path) -> None:
    ras = {
        "coordinateSystem": "RAS",
        "center": [1, 2, 3],
        "orientation": np.eye(3).ravel().tolist(),
        **_named("Posterior-1"),
    }
    markups = [_SAVED, {"type": "Fiducial", "controlPoints": []}, _SAVED | ras]
    path = tmp_path / "Zwei Büchsen 海马.mrk.json"
    path.write_text(json.dumps({"markups": markups}), encoding="utf-8")
    first, second = read_boxes(path)
    assert (first.class_name, second.class_name) == ("Anterior left", "Posterior")
    assert np.allclose(first.center, (10, 20, 30))
    assert np.allclose(second.center, (1, 2, 3))
    assert np.allclose(second.axes, np.eye(3))


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("boxes", _named("Anterior-1"), "Anterior"),
        ("Anterior", _named("R-1"), "Anterior"),
        ("Anterior_2", _named("R-1"), "Anterior"),
        ("Posterior.left", _named("R-1"), "Posterior.left"),
        ("boxes", {"name": "anterior", **_named("R-1")}, "Anterior"),
        ("Anterior", {"label": "Posterior"}, "Posterior"),
        ("boxes", _named("Lobe-2"), "Lobe-2"),
        ("boxes", _named("R-1"), "boxes"),
    ],
)
def test_the_class_name_comes_from_the_markup_its_control_point_or_the_file_name(
    tmp_path: Path, name: str, changes: dict[str, Any], expected: str
) -> None:
    path = _file(tmp_path, f"{name}.mrk.json", **changes)
    (box,) = read_boxes(path, classes=["Anterior", "Posterior", "Posterior.left", "Lobe-2"])
    assert box.class_name == expected


def test_boxes_come_back_as_they_were_written(tmp_path: Path) -> None:
    boxes = [
        RasBox("Anterior", (1.5, -2, 3), _AXES, (4, 5, 6)),
        RasBox("Lobe-2", (0, 0, 0), np.eye(3), (7, 8, 9)),
    ]
    write_boxes(boxes, tmp_path / "b.mrk.json")
    for box, again in zip(boxes, read_boxes(tmp_path / "b.mrk.json"), strict=True):
        assert again.class_name == box.class_name
        assert again.size == box.size
        assert np.allclose(again.center, box.center)
        assert np.allclose(again.axes, box.axes)


def test_a_box_with_left_handed_axes_is_written_with_right_handed_ones(tmp_path: Path) -> None:
    box = RasBox("Anterior", (0, 0, 0), _AXES * [1, 1, -1], (4, 5, 6))
    write_boxes([box], tmp_path / "b.mrk.json")
    (again,) = read_boxes(tmp_path / "b.mrk.json")
    assert np.allclose(again.axes, _AXES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "not a Slicer markup file"),
        ('{"markups": [{"type": "ROI"}]}', "not a Slicer markup file"),
        ('{"markups": [{"type": "Line"}]}', "holds no ROI"),
        (json.dumps({"markups": [_SAVED | {"center": [1, 2]}]}), "not a Slicer markup file"),
        (json.dumps({"markups": [_SAVED | {"orientation": [0] * 9}]}), "not a Slicer markup file"),
        (json.dumps({"markups": [_SAVED | {"size": [1, 0, 1]}]}), "without size"),
        (
            json.dumps({"markups": [_SAVED | {"coordinateSystem": "IJK"}]}),
            "not a Slicer markup file",
        ),
    ],
)
def test_a_file_without_a_usable_roi_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "b.mrk.json").write_text(content, encoding="utf-8")
    with pytest.raises(MaskSAMError, match=message) as caught:
        read_boxes(tmp_path / "b.mrk.json")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskSAMError, match="does not exist"):
        read_boxes(tmp_path / "b.mrk.json")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskSAMError, match="is a folder"):
        read_boxes(tmp_path)


def test_existing_boxes_are_replaced_on_request_only(tmp_path: Path) -> None:
    box = RasBox("Anterior", (0, 0, 0), np.eye(3), (4, 5, 6))
    write_boxes([box], tmp_path / "b.mrk.json")
    with pytest.raises(MaskSAMError, match="exists"):
        write_boxes([box], tmp_path / "b.mrk.json")
    write_boxes([box, box], tmp_path / "b.mrk.json", overwrite=True)
    assert len(read_boxes(tmp_path / "b.mrk.json")) == 2


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = _file(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_boxes(path)[0].size == (4, 6, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"insideOut": True}, "inside and outside are swapped"),
        ({"coordinateUnits": "cm"}, "not in mm"),
        ({"orientation": [1, 1, 0, 0, 1, 0, 0, 0, 1]}, "not at right angles"),
        ({"size": [1e300, 1, 1]}, "not a Slicer markup file"),
        ({"center": [float("nan"), 1, 1]}, "not a Slicer markup file"),
        ({"center": [10**400, 1, 1]}, "not a Slicer markup file"),
    ],
)
def test_an_roi_that_is_no_box_in_mm_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(MaskSAMError, match=message):
        read_boxes(_file(tmp_path, **changes))


def test_units_with_their_code_are_read(tmp_path: Path) -> None:
    path = _file(tmp_path, coordinateUnits=["mm", "UCUM", "millimeter"])
    assert read_boxes(path)[0].size == (4, 6, 8)


@settings(max_examples=40, deadline=None)
@given(document=changed({"markups": [_SAVED]}))
def test_any_document_is_read_or_refused(
    document: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    read_or_refuse(document, folder / "any.mrk.json", lambda path: read_boxes(path, ["Anterior"]))
