"""The module in the application: its parameter node, scripts, reloading, closing."""

from __future__ import annotations

import sys

import pytest

from Testing import host
from Testing.helpers.threshold_model import two_blobs
from Testing.helpers.worker_tools import has_ended
from Testing.panel.helpers import User, blobs_volume, segmentations
from Testing.slicer.helpers import GRIDS, MODULE, add_roi, segment_names


@pytest.fixture
def restored_library():
    """Restore the modules of the library after a test that reloads them."""

    def of_library(name: str) -> bool:
        return name.split(".")[0] == "MaskSAMSlicerLib"

    saved = {name: module for name, module in sys.modules.items() if of_library(name)}
    yield
    for name in [name for name in sys.modules if of_library(name)]:
        del sys.modules[name]
    sys.modules.update(saved)


def test_settings_are_saved_and_restored_with_the_scene(user, scene, tmp_path):
    import slicer

    user.choose_volume(blobs_volume())
    user.choose_model("small")
    user.ui.roiSelector.setCurrentNode(add_roi((2, 2, 2), (9, 9, 9), GRIDS["LPS"], "around"))
    user.choose_rule("add")
    user.ui.deviceSelector.currentIndex = user.ui.deviceSelector.findData("cpu")
    path = str(tmp_path / "szene.mrb")
    assert slicer.util.saveScene(path)
    host.close_scene()
    user.choose_model("threshold")
    assert user.ui.roiSelector.currentNode() is None
    slicer.util.loadScene(path)
    slicer.app.processEvents()
    assert user.ui.volumeSelector.currentNode().GetName() == "MR häd"
    assert user.ui.roiSelector.currentNode().GetName() == "around"
    assert user.widget.panel.picker.model.name == "small"
    assert user.ui.ruleSelector.itemData(user.ui.ruleSelector.currentIndex) == "add"
    assert user.ui.deviceSelector.itemData(user.ui.deviceSelector.currentIndex) == "cpu"


def test_scripts_use_the_logic_of_the_panel(user, scene):
    import slicer

    logic = slicer.util.getModuleLogic("MaskSAMSlicer")
    assert logic is user.widget.logic
    node = logic.segment(blobs_volume(), model="threshold")
    assert segment_names(node) == ["Anterior", "Posterior"]


def test_the_run_of_a_script_is_shown_in_the_panel_and_can_be_cancelled_there(user, scene):
    volume = blobs_volume()
    seen = []

    def progress(_stage, fraction, _seconds_left):
        seen.append((user.ui.segmentButton.text, user.ui.importButton.enabled))
        if fraction > 0 and user.ui.segmentButton.enabled:
            user.ui.segmentButton.click()

    for _ in range(2):  # a run after a cancelled one can be cancelled, too
        with pytest.raises(RuntimeError):
            user.widget.logic.segment(volume, model="slow", progress=progress)
        assert user.ui.segmentButton.text == "&Segment"
        assert user.ui.importButton.enabled
        assert user.status == "Cancelled."
    assert ("&Cancel", False) in seen
    assert segmentations(scene) == []


def test_closing_the_scene_ends_the_run_of_a_script(user, scene):
    volume = blobs_volume()

    def progress(_stage, fraction, _seconds_left):
        if fraction > 0 and scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode") is not None:
            host.close_scene()

    with pytest.raises(RuntimeError):
        user.widget.logic.segment(volume, model="slow", progress=progress)
    assert segmentations(scene) == []


def test_a_script_whose_progress_function_fails_leaves_the_module_usable(
    open_panel, own_client, scene
):
    user = open_panel(own_client())
    volume = blobs_volume()

    def progress(*_report):
        raise KeyError("the script's own fault")

    with pytest.raises(KeyError):
        user.widget.logic.segment(volume, model="slow", progress=progress)
    assert not user.busy
    user.segment(volume)
    assert user.found == ["Anterior", "Posterior"]


def test_removing_many_nodes_updates_the_panel_once(user, scene, application, monkeypatch):
    nodes = [scene.AddNewNodeByClass("vtkMRMLModelNode", f"model {n}") for n in range(40)]
    application.processEvents()
    updates = []
    update = user.widget.panel.update
    monkeypatch.setattr(user.widget.panel, "update", lambda: updates.append(update()))
    for node in nodes:
        scene.RemoveNode(node)
    application.processEvents()
    assert len(updates) == 1


def test_the_module_can_be_left_entered_and_loaded_again(open_panel, own_client, known_client):
    user = open_panel(own_client())
    volume = blobs_volume()
    user.segment(volume)
    worker = user.worker
    host.select_module(None)
    user.widget.enter()
    assert user.ui.volumeSelector.currentNode() is volume
    host.unload_module("MaskSAMSlicer")
    user.wait(lambda: has_ended(worker), "the worker's end")
    host.load_module(MODULE)
    again = User(host.select_module("MaskSAMSlicer"))
    assert again.ui.volumeSelector.currentNode() is volume
    assert again.ui.segmentButton.enabled


def test_the_default_volume_is_the_image_that_the_slice_views_show(open_panel, known_client, views):
    import slicer

    kind = "vtkMRMLLabelMapVolumeNode"
    labelmap = slicer.util.addVolumeFromArray(two_blobs(), nodeClassName=kind)
    hidden = blobs_volume(name="hidden")
    hidden.SetHideFromEditors(True)
    first, second = blobs_volume(name="first"), blobs_volume(name="second")
    slicer.util.setSliceViewerLayers(background=labelmap, label=labelmap)
    user = open_panel(known_client.for_logic)
    selector = user.ui.volumeSelector
    assert selector.currentNode() is first
    assert user.widget.logic.getParameterNode().inputVolume is first
    host.select_module(None)
    slicer.util.setSliceViewerLayers(background=second)
    host.select_module("MaskSAMSlicer")
    assert selector.currentNode() is first  # it was chosen before
    # The parameters in a scene of an older version may name a labelmap.
    user.widget.logic.getParameterNode().inputVolume = labelmap
    host.select_module("MaskSAMSlicer")
    assert selector.currentNode() is second


def test_without_an_image_no_volume_is_chosen(open_panel, known_client, scene):
    import slicer

    kind = "vtkMRMLLabelMapVolumeNode"
    slicer.util.addVolumeFromArray(two_blobs(), nodeClassName=kind)
    user = open_panel(known_client.for_logic)
    assert user.widget.logic.getParameterNode().inputVolume is None
    assert user.ui.segmentButton.toolTip == "Choose a volume first."


def test_a_run_that_ends_while_the_module_is_left_has_boxes_and_results(user, scene):
    user.start(blobs_volume(), "slow")
    user.wait_for_progress()
    host.select_module(None)
    user.wait()
    host.select_module("MaskSAMSlicer")
    assert user.found == ["Anterior", "Posterior"]
    assert user.box_states == {"Anterior": "automatic", "Posterior": "automatic"}
    assert user.ui.boxesButton.isVisibleTo(user.ui.boxesButton.parent())


def test_opening_the_module_and_closing_scenes_keeps_no_wrapper_of_the_parameters(user, scene):
    import gc

    from MaskSAMSlicerLib.parameters import Parameters

    def count() -> int:
        gc.collect()
        return sum(type(value) is Parameters for value in gc.get_objects())

    host.close_scene()
    before = count()
    for _ in range(3):
        host.select_module(None)
        host.select_module("MaskSAMSlicer")
        host.close_scene()
    assert count() == before


def test_the_worker_ends_with_the_application(open_panel, own_client, application):
    user = open_panel(own_client())
    user.start(blobs_volume(), "slow")
    user.wait_for_progress()
    worker = user.worker
    application.aboutToQuit.emit()
    user.wait(lambda: has_ended(worker), "the worker's end")


def test_a_reload_imports_the_library_again(restored_library, user, scene):
    import slicer

    before = sys.modules["MaskSAMSlicerLib.panel.panel"]
    user.widget.onReload()
    again = slicer.modules.MaskSAMSlicerWidget
    assert sys.modules["MaskSAMSlicerLib.panel.panel"] is not before
    assert again is not user.widget
    assert again.ui.segmentButton.text == "&Segment"


def test_the_self_test_of_the_module_passes(user_of_real_models, scene):
    import MaskSAMSlicer

    MaskSAMSlicer.MaskSAMSlicerTest().runTest()
    assert host.messages.texts("popup")[-1] == "Passed: 5 of 5 tests."
    assert not host.messages.texts("error")


def test_the_self_test_checks_what_it_can_without_the_packages(user, scene, monkeypatch):
    import MaskSAMSlicer
    from MaskSAMSlicerLib import installer

    monkeypatch.setattr(installer, "missing", lambda: ["torch>=2.1"])
    # The worker of an earlier test may still be running.
    running = user.widget.logic.segmentation.client.running
    MaskSAMSlicer.MaskSAMSlicerTest().runTest()
    assert host.messages.texts("popup")[-1].startswith("Passed: 1 of 5 tests.")
    assert user.widget.logic.segmentation.client.running == running
