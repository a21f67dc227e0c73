"""``logic.segment``: results in a real scene, arguments, and errors."""

from __future__ import annotations

import json

import numpy as np
import pytest

from Testing.helpers.generated import generated_case
from Testing.helpers.threshold_model import two_blobs
from Testing.slicer.helpers import (
    GRIDS,
    add_roi,
    add_transform,
    add_volume,
    add_warp,
    assert_segments,
    engine,
    matrix,
    segment_names,
    segment_voxels,
    turn,
    write_dicom_series,
)


def assert_equals(node, volume, expected):
    """Check that both classes are found, and that their segments equal those of the engine."""
    names = [instance.name for instance in expected.instances]
    assert names == ["Anterior", "Posterior"]
    assert segment_names(node) == names
    assert_segments(node, volume, expected.labelmap)


@pytest.mark.parametrize("grid", GRIDS, ids=list(GRIDS))
def test_segments_equal_the_engine_voxel_for_voxel(known, grid):
    array = two_blobs()
    volume = add_volume(array, GRIDS[grid])
    node = known.segment(volume, model="threshold")
    assert_equals(node, volume, engine(array, GRIDS[grid]))
    if grid == "axis-aligned":
        assert np.array_equal(segment_voxels(node, "Anterior", volume), array == 1)


def test_a_real_model_gives_the_result_of_the_engine(logic, models_home):
    from MaskSAMCore import Segmenter, Volume

    array = generated_case(1)[0]
    volume = add_volume(array, GRIDS["oblique"])
    node = logic.segment(volume, model="small", device="cpu")
    segmenter = Segmenter.from_model(models_home / "models" / "small", device="cpu")
    expected = segmenter.segment(Volume(array, GRIDS["oblique"]))
    found = {one.label.name: one for one in logic.run.outcome.found}
    assert found.keys() == {one.name for one in expected.instances}
    for instance in expected.instances:
        voxels = segment_voxels(node, instance.name, volume)
        assert np.array_equal(voxels, expected.labelmap == instance.value)
        assert found[instance.name].confidence == pytest.approx(instance.confidence, abs=1e-4)


def test_the_boxes_of_a_real_model_surround_its_segments(logic):
    from MaskSAMSlicerLib.mrml.run_record import SegmentationRecord

    volume = add_volume(generated_case(1)[0], GRIDS["oblique"])
    node = logic.segment(volume, model="small", device="cpu")
    boxes = SegmentationRecord.require(node).proposals
    assert boxes
    for name, (lower, upper) in boxes.items():
        voxels = np.argwhere(segment_voxels(node, name, volume))[:, ::-1]
        np.testing.assert_allclose(lower, voxels.min(0))
        np.testing.assert_allclose(upper, voxels.max(0) + 1)


def test_the_model_sees_the_volume_under_its_parent_transform(known):
    array = two_blobs()
    volume = add_volume(array, GRIDS["LPS"])
    # The transform turns sagittal slices into axial ones; the model must see what the user sees.
    to_world = matrix(turn((0, 90, 0)), (1, 1, 1))
    add_transform(to_world, volume)
    node = known.segment(volume, model="echo")
    seen = np.array(json.loads(known.run.outcome.notes[-1])[0])
    assert np.allclose(seen, to_world @ GRIDS["LPS"], atol=1e-9)
    assert_equals(node, volume, engine(array, to_world @ GRIDS["LPS"]))
    assert node.GetTransformNodeID() == volume.GetTransformNodeID()


def test_an_roi_is_mapped_with_all_its_corners(known):
    from MaskSAMCore import Box

    array = two_blobs((20, 26, 30))
    volume = add_volume(array, GRIDS["oblique"])
    to_world = matrix(turn((12, -7, 33)), (1, 1, 1))
    transform = add_transform(to_world, volume)
    lower, upper = (6, 8, 5), (24, 22, 17)
    roi = add_roi(lower, upper, GRIDS["oblique"])
    roi.SetAndObserveTransformNodeID(transform.GetID())
    node = known.segment(volume, model="threshold", roiNode=roi)
    expected = engine(array, to_world @ GRIDS["oblique"], roi=Box("", lower, upper))
    assert_equals(node, volume, expected)
    whole = engine(array, to_world @ GRIDS["oblique"])
    assert 0 < expected.labelmap.astype(bool).sum() < whole.labelmap.astype(bool).sum()


def test_a_labelmap_is_refused(known):
    import slicer

    kind = "vtkMRMLLabelMapVolumeNode"
    labelmap = slicer.util.addVolumeFromArray(two_blobs(), np.eye(4), "regions", kind)
    with pytest.raises(ValueError, match="'regions' is a labelmap: choose the image"):
        known.segment(labelmap, model="threshold")


def test_existing_segments_and_nodes_are_kept(known, scene):
    import slicer

    array = two_blobs()
    volume = add_volume(array, GRIDS["oblique"])
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    mine = (np.random.default_rng(0).random(array.shape) > 0.7).astype(np.uint8)
    segment_id = node.GetSegmentation().AddEmptySegment("", "Lesion", (1, 0, 0))
    slicer.util.updateSegmentBinaryLabelmapFromArray(mine, node, segment_id, volume)
    before = scene.GetNumberOfNodes()
    assert known.segment(volume, model="threshold", segmentationNode=node) is node
    assert scene.GetNumberOfNodes() == before
    assert segment_names(node) == ["Lesion", "Anterior", "Posterior"]
    assert np.array_equal(segment_voxels(node, "Lesion", volume), mine > 0)


def test_two_runs_use_one_worker_and_the_second_follows_the_rule(known):
    volume = add_volume(two_blobs(), GRIDS["LPS"])
    node = known.segment(volume, model="threshold")
    pid, names = known.client.pid, segment_names(node)
    assert known.segment(volume, model="threshold", segmentationNode=node) is node
    assert known.client.pid == pid
    assert segment_names(node) == names
    known.segment(volume, model="threshold", segmentationNode=node, rule="add")
    assert segment_names(node) == [*names, *(f"{name} 2" for name in names)]


def test_progress_grows_up_to_the_end(known):
    reports = []
    volume = add_volume(two_blobs(), GRIDS["LPS"])
    known.segment(volume, model="threshold", progress=lambda *report: reports.append(report))
    fractions = [fraction for _, fraction, _ in reports]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert any("egment" in stage for stage, _, _ in reports)


def test_a_dicom_series_is_segmented(known, tmp_path):
    import slicer

    from MaskSAMCore import read_volume

    array = two_blobs()
    folder = tmp_path / "sériés"
    names = write_dicom_series(folder, array.astype(np.int16), GRIDS["oblique"])
    volume = slicer.util.loadVolume(names[0], {"singleFile": False})
    assert np.array_equal(slicer.util.arrayFromVolume(volume), array)
    node = known.segment(volume, model="threshold")
    read = read_volume(folder)
    assert_equals(node, volume, engine(read.array, read.ijk_to_ras))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no volume", "Choose a volume"),
        ("empty volume", "has no voxels"),
        ("color volume", "scalar volume"),
        ("single slice", "single slice"),
        ("warped volume", "Harden"),
        ("unknown model", "choose one of"),
        ("model not installed", "not installed"),
        ("unknown rule", "choose add or replace"),
        ("unknown device", "choose one of auto"),
        ("ROI outside", "outside the volume"),
        ("ROI without size", "has no size"),
        ("warped ROI", "'ROI' is under the deformation"),
        ("output is a volume", "is not a segmentation node"),
        ("output is a name", "'mine' is not a segmentation node"),
    ],
)
def test_arguments_that_cannot_work_are_refused(known, scene, case, message):
    import slicer

    array = two_blobs()
    volume = add_volume(array, GRIDS["LPS"])
    options = {"model": "threshold"}
    if case == "no volume":
        volume = None
    elif case == "empty volume":
        volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    elif case == "color volume":
        colors = np.zeros((*array.shape, 3), np.uint8)
        volume = slicer.util.addVolumeFromArray(
            colors, GRIDS["LPS"], nodeClassName="vtkMRMLVectorVolumeNode"
        )
    elif case == "single slice":
        volume = add_volume(array[:1], GRIDS["LPS"])
    elif case == "warped volume":
        add_warp(volume)
    elif case == "unknown model":
        options["model"] = "nonesuch"
    elif case == "model not installed":
        options["model"] = "sam_vit_b"
    elif case == "unknown rule":
        options["rule"] = "merge"
    elif case == "unknown device":
        options["device"] = "quantum"
    elif case == "ROI outside":
        options["roiNode"] = add_roi((90, 90, 90), (99, 99, 99), GRIDS["LPS"])
    elif case == "ROI without size":
        options["roiNode"] = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "later")
    elif case == "warped ROI":
        options["roiNode"] = add_roi((2, 2, 2), (9, 9, 9), GRIDS["LPS"])
        add_warp(options["roiNode"])
    elif case == "output is a volume":
        options["segmentationNode"] = volume
    elif case == "output is a name":
        options["segmentationNode"] = "mine"
    nodes = scene.GetNumberOfNodes()
    with pytest.raises(ValueError, match=message):
        known.segment(volume, **options)
    assert scene.GetNumberOfNodes() == nodes
    assert not known.busy


def test_a_volume_that_the_engine_refuses_leaves_the_scene_unchanged(known, scene):
    array = two_blobs()
    array[3, 4, 5] = np.nan
    volume = add_volume(array, GRIDS["LPS"])
    nodes = scene.GetNumberOfNodes()
    with pytest.raises(RuntimeError, match="not numbers"):
        known.segment(volume, model="threshold")
    assert scene.GetNumberOfNodes() == nodes
    volume = add_volume(two_blobs(), GRIDS["LPS"])
    assert segment_names(known.segment(volume, model="threshold"))


def test_the_module_imports_no_heavy_package(application):
    import subprocess
    import sys

    from Testing.slicer.helpers import ROOT

    code = (
        "import sys; sys.path[:0] = [{0!r}, {0!r} + '/MaskSAMSlicer'];"
        "from Testing import host; host.start(); before = set(sys.modules);"
        "host.load_module({0!r} + '/MaskSAMSlicer/MaskSAMSlicer.py');"
        "host.select_module('MaskSAMSlicer');"
        "heavy = ('torch', 'SimpleITK', 'scipy', 'safetensors', 'pooch', 'segment_anything');"
        "print(sorted(set(heavy) & (set(sys.modules) - before)))"
    ).format(str(ROOT))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1:] == ["[]"], run.stderr[-2000:]
