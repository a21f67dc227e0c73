"""Writing labelmaps into segmentations: place, names, colors, undo, and unchanged segments."""

from __future__ import annotations

import numpy as np
import pytest

from Testing.helpers.threshold_model import two_blobs
from Testing.slicer.helpers import (
    GRIDS,
    add_roi,
    add_transform,
    add_volume,
    add_warp,
    matrix,
    segment_names,
    segment_voxels,
    turn,
)

SHAPE = (14, 18, 22)


@pytest.fixture
def segments(scene):
    from MaskSAMSlicerLib.mrml import segments

    return segments


def label_of(value: int, name: str, color=(0.9, 0.5, 0.2)):
    from MaskSAMCore.labels import Code, Label, Terminology

    codes = Terminology(
        Code("SCT", "123037004", "Anatomical Structure"), Code("SCT", "5366008", "Hippocampus")
    )
    return Label(value, name, color, codes)


def found_in(segments, labelmap: np.ndarray, names: dict[int, str]):
    found = []
    for value, name in names.items():
        k, j, i = (axis for axis in np.nonzero(labelmap == value))
        lower = (int(i.min()), int(j.min()), int(k.min()))
        upper = (int(i.max()) + 1, int(j.max()) + 1, int(k.max()) + 1)
        label = label_of(value, name, (0.1 * value, 0.5, 0.25))
        found.append(segments.FoundClass(label, 0.9, lower, upper, int((labelmap == value).sum())))
    return found


def tag(segment, name: str) -> str:
    import vtk

    value = vtk.reference("")
    assert segment.GetTag(name, value), f"no tag {name}"
    return str(value)


def two_blocks() -> np.ndarray:
    labelmap = np.zeros(SHAPE, np.uint8)
    labelmap[3:7, 4:9, 5:11] = 1
    labelmap[6:12, 9:16, 12:20] = 2
    return labelmap


NAMES = {1: "Anterior", 2: "Posterior"}


def placed(volume):
    """Return the voxels of a volume node and their place in the world."""
    from MaskSAMSlicerLib.mrml.volumes import volume_from_node

    return volume_from_node(volume)


def write(segments, node, volume, labelmap, rule="replace"):
    """Write both classes of a labelmap; return the undo history and the segment IDs."""
    found = found_in(segments, labelmap, NAMES)
    return segments.write_segments(node, placed(volume), labelmap, found, rule, "m")


@pytest.mark.parametrize("grid", GRIDS, ids=list(GRIDS))
@pytest.mark.parametrize("moved", [False, True], ids=["untransformed", "transformed"])
def test_segments_contain_the_voxels_of_their_class(segments, grid, moved):
    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS[grid])
    if moved:
        add_transform(matrix(turn((-8, 40, 12)), (1, 1, 1)), volume)
    labelmap = two_blocks()
    node = segments.new_segmentation(volume)
    write(segments, node, volume, labelmap)
    assert segment_names(node) == ["Anterior", "Posterior"]
    for value, name in NAMES.items():
        assert np.array_equal(segment_voxels(node, name, volume), labelmap == value)
    assert node.GetSegmentation().GetNumberOfLayers() == 1


def test_a_segment_lies_where_its_voxels_are_in_the_world(segments):
    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS["oblique"])
    to_world = matrix(turn((5, 10, -30)), (1, 1, 1))
    add_transform(to_world, volume)
    labelmap = two_blocks()
    node = segments.new_segmentation(volume)
    write(segments, node, volume, labelmap)
    segment_id = node.GetSegmentation().GetSegmentIdBySegmentName("Anterior")
    center = np.array(node.GetSegmentCenterRAS(segment_id))
    ijk = np.argwhere(labelmap == 1).mean(0)[::-1]
    expected = (to_world @ GRIDS["oblique"] @ [*ijk, 1])[:3]
    # Slicer returns the center of the nearest voxel.
    assert np.abs(center - expected).max() < 2.0


def test_segments_carry_color_codes_and_the_model(segments):
    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS["LPS"])
    labelmap = two_blocks()
    node = segments.new_segmentation(volume)
    _, ids = segments.write_segments(
        node,
        placed(volume),
        labelmap,
        found_in(segments, labelmap, NAMES),
        "replace",
        "hippocampus",
    )
    segment = node.GetSegmentation().GetSegment(ids[1])
    assert np.allclose(segment.GetColor(), (0.2, 0.5, 0.25))
    assert "SCT^5366008^Hippocampus" in tag(segment, segment.GetTerminologyEntryTagName())
    assert tag(segment, segments.MODEL_TAG) == "hippocampus"


def test_a_new_segmentation_has_the_geometry_transform_and_folder_of_its_volume(segments, scene):
    import slicer

    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS["oblique"])
    add_transform(matrix(turn((5, 10, -30)), (1, 1, 1)), volume)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume), study)
    node = segments.new_segmentation(volume)
    assert node.GetTransformNodeID() == volume.GetTransformNodeID()
    assert node.GetNodeReference("referenceImageGeometryRef") is volume
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def existing_segmentation(volume):
    """Return a segmentation with a lesion and an older Anterior in one layer, and its labelmap.

    The lesion overlaps the first class of `two_blocks`.
    """
    import slicer

    from MaskSAMSlicerLib.mrml import segments

    node = segments.new_segmentation(volume)
    old = np.zeros(SHAPE, np.uint8)
    old[2:6, 3:8, 6:9] = 1  # the lesion
    old[8:12, 2:6, 2:6] = 2  # the older Anterior
    found = found_in(segments, old, {1: "Lesion", 2: "Anterior"})
    segments.write_segments(node, placed(volume), old, found, "replace", "old")
    assert node.GetSegmentation().GetNumberOfLayers() == 1
    assert slicer.mrmlScene.IsNodePresent(node)
    return node, old


def test_replacing_changes_only_segments_of_the_same_name(segments):
    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS["oblique"])
    node, old = existing_segmentation(volume)
    old_id = node.GetSegmentation().GetSegmentIdBySegmentName("Anterior")
    labelmap = two_blocks()
    write(segments, node, volume, labelmap)
    assert segment_names(node) == ["Lesion", "Anterior", "Posterior"]
    assert np.array_equal(segment_voxels(node, "Lesion", volume), old == 1)
    assert np.array_equal(segment_voxels(node, "Anterior", volume), labelmap == 1)
    assert np.array_equal(segment_voxels(node, "Posterior", volume), labelmap == 2)
    assert node.GetSegmentation().GetSegmentIdBySegmentName("Anterior") == old_id


def test_adding_changes_no_segment_and_numbers_the_names(segments):
    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS["left-handed"])
    node, old = existing_segmentation(volume)
    labelmap = two_blocks()
    write(segments, node, volume, labelmap, "add")
    assert segment_names(node) == ["Lesion", "Anterior", "Anterior 2", "Posterior"]
    assert np.array_equal(segment_voxels(node, "Lesion", volume), old == 1)
    assert np.array_equal(segment_voxels(node, "Anterior", volume), old == 2)
    assert np.array_equal(segment_voxels(node, "Anterior 2", volume), labelmap == 1)


def looks_of(node) -> dict[str, tuple]:
    """Return name, color, codes and status of each segment by its ID."""
    import slicer
    import vtk

    segmentation, found = node.GetSegmentation(), {}
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        codes = vtk.reference("")
        segment.GetTag(segment.GetTerminologyEntryTagName(), codes)
        status = slicer.vtkSlicerSegmentationsModuleLogic.GetSegmentStatus(segment)
        color = tuple(np.round(segment.GetColor(), 6).tolist())
        found[segment_id] = segment.GetName(), color, str(codes), status
    return found


def test_an_undo_keeps_the_names_colors_codes_and_status_that_the_user_has_given(known):
    import slicer

    volume = add_volume(two_blobs(), GRIDS["oblique"])
    node = known.segment(volume, model="threshold")
    segment = node.GetSegmentation().GetSegment("Anterior")
    segment.SetName("Ours")
    known.update(node, boxNodes=[add_roi((2, 2, 2), (9, 9, 9), GRIDS["oblique"], "Anterior")])
    history = known.run.outcome.undo
    written = segment_voxels(node, "Ours", volume)
    segment.SetColor(0.25, 0.5, 0.75)
    segment.SetTag(segment.GetTerminologyEntryTagName(), "codes of the user")
    slicer.vtkSlicerSegmentationsModuleLogic.SetSegmentStatus(segment, 2)
    expected = looks_of(node)
    assert expected["Anterior"] == ("Ours", (0.25, 0.5, 0.75), "codes of the user", 2)
    history.undo()
    assert looks_of(node) == expected
    assert not np.array_equal(segment_voxels(node, "Ours", volume), written)
    history.redo()
    assert looks_of(node) == expected
    assert np.array_equal(segment_voxels(node, "Ours", volume), written)


def test_an_undo_takes_back_the_color_that_a_run_has_given(known):
    volume = add_volume(two_blobs(), GRIDS["oblique"])
    node = known.segment(volume, model="threshold")
    node.GetSegmentation().GetSegment("Anterior").SetColor(0.25, 0.5, 0.75)
    before = looks_of(node)
    known.segment(volume, model="threshold", segmentationNode=node)
    assert looks_of(node) != before
    known.run.outcome.undo.undo()
    assert looks_of(node) == before


def test_written_segments_are_undone_and_redone_in_one_step(segments):
    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS["sagittal"])
    node, old = existing_segmentation(volume)
    labelmap = two_blocks()
    history, _ = write(segments, node, volume, labelmap)
    assert history.can_undo and not history.can_redo
    history.undo()
    assert segment_names(node) == ["Lesion", "Anterior"]
    assert np.array_equal(segment_voxels(node, "Lesion", volume), old == 1)
    assert np.array_equal(segment_voxels(node, "Anterior", volume), old == 2)
    assert history.can_redo
    history.redo()
    assert np.array_equal(segment_voxels(node, "Anterior", volume), labelmap == 1)
    assert np.array_equal(segment_voxels(node, "Posterior", volume), labelmap == 2)


def test_segments_keep_their_place_under_another_transform(segments):
    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS["LPS"])
    node = segments.new_segmentation(volume)
    add_transform(matrix(turn((0, 0, 90)), (1, 1, 1)), node)
    labelmap = two_blocks()
    segments.check_target(node, volume, placed(volume))
    write(segments, node, volume, labelmap)
    # The voxels are read on the reference volume's own grid in the world.
    assert np.array_equal(segment_voxels(node, "Anterior", volume), labelmap == 1)


def test_a_warped_output_is_refused(segments):
    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS["LPS"])
    node = segments.new_segmentation(volume)
    add_warp(node)
    with pytest.raises(ValueError, match="harden"):
        segments.check_target(node, volume, placed(volume))


def test_an_output_of_surfaces_is_refused(segments):
    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS["LPS"])
    node, _ = existing_segmentation(volume)
    node.CreateClosedSurfaceRepresentation()
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    with pytest.raises(ValueError, match="surfaces"):
        segments.check_target(node, volume, placed(volume))


def test_existing_surfaces_are_updated(segments):
    import vtk

    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS["axis-aligned"])
    node, _ = existing_segmentation(volume)
    node.CreateClosedSurfaceRepresentation()
    labelmap = two_blocks()
    _, ids = write(segments, node, volume, labelmap)
    surface = vtk.vtkPolyData()
    assert node.GetClosedSurfaceRepresentation(ids[0], surface)
    properties = vtk.vtkMassProperties()
    properties.SetInputData(surface)
    assert properties.GetVolume() == pytest.approx((labelmap == 1).sum(), rel=0.4)


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".mrb"])
def test_segments_survive_saving_and_loading(segments, scene, tmp_path, suffix):
    import slicer

    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS["oblique"], "head")
    node = segments.new_segmentation(volume)
    labelmap = two_blocks()
    write(segments, node, volume, labelmap)
    path = str(tmp_path / f"säved{suffix}")
    if suffix == ".mrb":
        assert slicer.util.saveScene(path)
        scene.Clear(False)
        slicer.util.loadScene(path)
        volume = slicer.util.getNode("head")
    else:
        assert slicer.util.saveNode(node, path)
        scene.RemoveNode(node)
        slicer.util.loadSegmentation(path)
    loaded = scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    assert segment_names(loaded) == ["Anterior", "Posterior"]
    for value, name in NAMES.items():
        assert np.array_equal(segment_voxels(loaded, name, volume), labelmap == value)
    segmentation = loaded.GetSegmentation()
    segment = segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName("Anterior"))
    assert "5366008" in tag(segment, segment.GetTerminologyEntryTagName())
    assert np.allclose(segment.GetColor(), (0.1, 0.5, 0.25), atol=1e-3)


def test_writing_no_class_changes_nothing(segments):
    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS["LPS"])
    node, old = existing_segmentation(volume)
    segments.write_segments(node, placed(volume), np.zeros(SHAPE, np.uint8), [], "replace", "m")
    assert segment_names(node) == ["Lesion", "Anterior"]
    assert np.array_equal(segment_voxels(node, "Anterior", volume), old == 2)


def test_names_that_differ_in_case_are_different_segments(segments):
    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS["LPS"])
    node = segments.new_segmentation(volume)
    mine = np.zeros(SHAPE, np.uint8)
    mine[1:3, 1:3, 1:3] = 1
    found = found_in(segments, mine, {1: "anterior"})
    segments.write_segments(node, placed(volume), mine, found, "replace", "mine")
    labelmap = two_blocks()
    write(segments, node, volume, labelmap)
    assert segment_names(node) == ["anterior", "Anterior", "Posterior"]
    import slicer

    first = node.GetSegmentation().GetNthSegmentID(0)
    kept = slicer.util.arrayFromSegmentBinaryLabelmap(node, first, volume)
    assert np.array_equal(kept, mine)


def test_cerebrospinal_fluid_hides_nothing_in_3d_until_the_user_decides(segments):
    from dataclasses import replace

    from MaskSAMCore.labels import Code, Terminology

    codes = Terminology(
        Code("SCT", "123037004", "Anatomical Structure"),
        Code("SCT", "65216001", "Cerebrospinal Fluid"),
    )
    labelmap = two_blocks()
    fluid, other = found_in(segments, labelmap, {1: "fluid", 2: "other"})
    fluid = replace(fluid, label=replace(fluid.label, terminology=codes))
    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS["oblique"])
    node = segments.new_segmentation(volume)
    _, ids = segments.write_segments(
        node, placed(volume), labelmap, [fluid, other], "replace", "model"
    )
    display = node.GetDisplayNode()
    assert display.GetSegmentOpacity3D(ids[0]) < 0.5
    assert display.GetSegmentOpacity3D(ids[1]) == 1.0
    display.SetSegmentOpacity3D(ids[0], 1.0)
    segments.write_segments(node, placed(volume), labelmap, [fluid], "replace", "model")
    assert display.GetSegmentOpacity3D(ids[0]) == 1.0
