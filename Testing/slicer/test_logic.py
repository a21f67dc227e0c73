"""The module for scripts: real scene, real worker process, a small real model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from Testing.helpers.generated import generated_case
from Testing.helpers.threshold_model import threshold_segmenter, two_blobs
from Testing.slicer.module_tools import (
    GRIDS,
    add_roi,
    add_transform,
    add_volume,
    add_warp,
    matrix,
    segment_names,
    segment_voxels,
    turn,
    write_dicom_series,
)


def engine(array, ijk_to_world, roi=None):
    from MaskSAMCore import Volume

    return threshold_segmenter().segment(Volume(array, ijk_to_world), roi=roi)


def assert_equals(node, volume, expected):
    """The segments are the engine's labelmap, voxel for voxel."""
    names = [instance.name for instance in expected.instances]
    assert names == ["Anterior", "Posterior"]
    assert segment_names(node) == names
    for instance in expected.instances:
        voxels = segment_voxels(node, instance.name, volume)
        assert np.array_equal(voxels, expected.labelmap == instance.value)


@pytest.mark.parametrize("grid", GRIDS, ids=list(GRIDS))
def test_segments_equal_the_engine_voxel_for_voxel(known, grid):
    array = two_blobs()
    volume = add_volume(array, GRIDS[grid])
    node = known.segment(volume, model="threshold")
    assert_equals(node, volume, engine(array, GRIDS[grid]))
    if grid == "axis-aligned":
        assert np.array_equal(segment_voxels(node, "Anterior", volume), array == 1)


def test_a_real_model_gives_what_the_engine_gives(logic, models_home):
    from MaskSAMCore import Segmenter, Volume

    array = generated_case(1)[0]
    volume = add_volume(array, GRIDS["oblique"])
    node = logic.segment(volume, model="small", device="cpu")
    segmenter = Segmenter.from_model(models_home / "models" / "small", device="cpu")
    expected = segmenter.segment(Volume(array, GRIDS["oblique"]))
    assert expected.instances
    for instance in expected.instances:
        voxels = segment_voxels(node, instance.name, volume)
        assert np.array_equal(voxels, expected.labelmap == instance.value)
        assert logic.run.outcome.found[0].score == pytest.approx(instance.confidence, abs=1e-4)


def test_a_linear_parent_transform_is_honoured(known):
    array = two_blobs()
    volume = add_volume(array, GRIDS["LPS"])
    # What was sagittal is axial now: the model must see the volume as the person does.
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
    expected = engine(array, to_world @ GRIDS["oblique"], Box("", lower, upper))
    assert_equals(node, volume, expected)
    whole = engine(array, to_world @ GRIDS["oblique"])
    assert 0 < expected.labelmap.astype(bool).sum() < whole.labelmap.astype(bool).sum()


def test_existing_segments_and_nodes_are_kept(logic, scene):
    import slicer

    array = generated_case(4)[0]
    volume = add_volume(array, GRIDS["oblique"])
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    mine = (np.random.default_rng(0).random(array.shape) > 0.7).astype(np.uint8)
    segment_id = node.GetSegmentation().AddEmptySegment("", "Lesion", (1, 0, 0))
    slicer.util.updateSegmentBinaryLabelmapFromArray(mine, node, segment_id, volume)
    before = scene.GetNumberOfNodes()
    given = logic.segment(volume, model="small", segmentationNode=node)
    assert given is node
    assert scene.GetNumberOfNodes() == before
    assert segment_names(node)[0] == "Lesion"
    assert np.array_equal(segment_voxels(node, "Lesion", volume), mine > 0)


def test_two_runs_in_a_row_use_one_worker_and_replace_one_another(logic):
    volume = add_volume(generated_case(5)[0], GRIDS["LPS"])
    node = logic.segment(volume, model="small")
    first, names = logic.client.pid, segment_names(node)
    assert logic.segment(volume, model="small", segmentationNode=node) is node
    assert logic.client.pid == first
    assert segment_names(node) == names
    logic.segment(volume, model="small", segmentationNode=node, rule="add")
    assert segment_names(node) == [*names, *(f"{name} 2" for name in names)]


def test_progress_is_told(logic):
    told = []
    volume = add_volume(generated_case(6)[0], GRIDS["LPS"])
    logic.segment(volume, model="small", progress=lambda *what: told.append(what))
    fractions = [fraction for _, fraction, _ in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert any("egment" in stage for stage, _, _ in told)


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
    ("what", "message"),
    [
        ("nothing", "Choose a volume"),
        ("empty", "has no voxels"),
        ("color", "scalar volume"),
        ("flat", "single slice"),
        ("warped", "Harden"),
        ("model", "choose one of"),
        ("backbone", "not installed"),
        ("rule", "choose add or replace"),
        ("device", "choose one of auto"),
        ("roi outside", "outside the volume"),
        ("roi empty", "has no size"),
    ],
)
def test_what_cannot_work_says_what_to_do(logic, scene, what, message):
    import slicer

    array = generated_case(8)[0]
    volume = add_volume(array, GRIDS["LPS"])
    choices = {"model": "small"}
    if what == "nothing":
        volume = None
    elif what == "empty":
        volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    elif what == "color":
        colors = np.zeros((*array.shape, 3), np.uint8)
        volume = slicer.util.addVolumeFromArray(
            colors, GRIDS["LPS"], nodeClassName="vtkMRMLVectorVolumeNode"
        )
    elif what == "flat":
        volume = add_volume(array[:1], GRIDS["LPS"])
    elif what == "warped":
        add_warp(volume)
    elif what == "model":
        choices["model"] = "nonesuch"
    elif what == "backbone":
        choices["model"] = "sam_vit_b"
    elif what == "rule":
        choices["rule"] = "merge"
    elif what == "device":
        choices["device"] = "quantum"
    elif what == "roi outside":
        choices["roiNode"] = add_roi((90, 90, 90), (99, 99, 99), GRIDS["LPS"])
    elif what == "roi empty":
        choices["roiNode"] = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "later")
    nodes = scene.GetNumberOfNodes()
    with pytest.raises(ValueError, match=message):
        logic.segment(volume, **choices)
    assert scene.GetNumberOfNodes() == nodes
    assert not logic.busy


def test_what_the_engine_refuses_leaves_the_scene_alone(logic, scene):
    array = generated_case(9)[0].copy()
    array[3, 4, 5] = np.nan
    volume = add_volume(array, GRIDS["LPS"])
    nodes = scene.GetNumberOfNodes()
    with pytest.raises(RuntimeError, match="not numbers"):
        logic.segment(volume, model="small")
    assert scene.GetNumberOfNodes() == nodes
    array[3, 4, 5] = 0
    assert segment_names(logic.segment(add_volume(array, GRIDS["LPS"]), model="small"))


def test_nothing_heavy_is_imported_by_the_module(application):
    import subprocess
    import sys

    from Testing.slicer.module_tools import ROOT

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
