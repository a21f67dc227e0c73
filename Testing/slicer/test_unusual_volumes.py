"""Volumes with unusual intensities, voxel sizes and matrices, from the scene to the worker."""

from __future__ import annotations

import numpy as np
import pytest

from Testing.helpers.generated import generated_case
from Testing.slicer.helpers import GRIDS, add_transform, add_volume, segment_names


def with_matrix(value: float) -> np.ndarray:
    matrix = GRIDS["oblique"].copy()
    matrix[0, 0] = value
    return matrix


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("blank", "'MR häd' has no contrast .all voxels are 7"),
        ("fill", "'MR häd' has voxels of -3.4e.38, too large"),
        ("metres", "'MR häd' has voxels of 1e-06 x 1e-06 x 1e-06 mm"),
        ("micrometres", "'MR häd' has voxels of 1000 x 1000 x 1000 mm .* unit"),
    ],
)
def test_a_volume_that_cannot_be_right_is_refused_in_one_line(logic, scene, change, message):
    array, grid = generated_case(1)[0].astype(np.float32), np.eye(4)
    if change == "blank":
        array[:] = 7
    elif change == "fill":
        array[:2] = np.finfo(np.float32).min
    else:
        grid[:3, :3] *= 1e-6 if change == "metres" else 1000
    volume = add_volume(array, grid)
    nodes = scene.GetNumberOfNodes()
    with pytest.raises(RuntimeError, match=message) as error:
        logic.segment(volume, model="small", device="cpu")
    assert "\n" not in str(error.value)
    assert scene.GetNumberOfNodes() == nodes


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_volume_without_a_place_in_space_is_refused_by_name(known, value: float):
    matrix = np.diag([value, 1.0, 1.0, 1.0])
    volume = add_volume(generated_case(1)[0], np.eye(4))
    add_transform(matrix, volume)
    with pytest.raises(ValueError, match="'MR häd' has no usable place in space"):
        known.segment(volume, model="threshold")


def test_padding_is_ignored_with_a_note(logic):
    array = generated_case(1)[0].astype(np.float32)
    array[:2] = -1e30
    node = logic.segment(add_volume(array, GRIDS["left-handed"]), model="small", device="cpu")
    assert segment_names(node)
    (note,) = logic.run.outcome.notes
    assert note.endswith("voxels of 'MR häd' are -1e+30: ignored as padding")


@pytest.mark.parametrize("stated", ["", "MR", "PT"])
def test_the_modality_of_dicom_reaches_the_worker(logic, stated: str):
    import slicer

    array = generated_case(1)[0].astype(np.float32)
    array[:3] = -1000
    volume = add_volume(array, GRIDS["LPS"])
    if stated:
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        item = hierarchy.GetItemByDataNode(volume)
        hierarchy.SetItemAttribute(item, "DICOM.Modality", stated)
    logic.segment(volume, model="small", device="cpu")
    doubts = [note for note in logic.run.outcome.notes if "made for MR" in note]
    expected = {"": ["CT"], "MR": [], "PT": ["PT"]}[stated]
    assert [doubt.removesuffix(".").split()[-1] for doubt in doubts] == expected
