"""The stand-in for the application: modules, parameters, scene, messages and views."""

import os
import sys

import numpy as np
import pytest

from Testing import host


def test_a_loaded_module_is_found_under_the_names_that_the_application_uses(panel, small_path):
    import slicer

    assert slicer.modules.small.title == "Small"
    assert slicer.modules.SmallWidget is panel
    assert slicer.util.getModuleWidget("Small") is panel
    assert os.path.samefile(slicer.util.modulePath("Small"), small_path)
    assert panel.calls == ["enter"]
    host.select_module(None)
    assert panel.calls == ["enter", "exit"]
    host.select_module("Small")


def test_widgets_and_parameter_node_are_synchronized_in_both_directions(panel, volume):
    import slicer

    ui, parameters = panel.ui, panel.parameters
    mode = type(parameters.mode)
    node = parameters.parameterNode
    assert (ui.opacitySlider.value, ui.modeBox.currentText, ui.chunkBox.currentText) == (
        0.25, "EXACT", "8")  # fmt: skip
    assert ui.volumeSelector.currentNode() is None  # a selector never chooses a node by itself
    ui.volumeSelector.setCurrentNode(volume)
    assert parameters.volume is volume and parameters.segmentation is None

    ui.opacitySlider.value = 0.5
    ui.smoothBox.checked = False
    ui.modeBox.currentText = "FAST"
    ui.nameEdit.text = "spleen"
    ui.chunkBox.currentIndex = 2
    assert node.GetParameter("opacity") == "0.5" and node.GetParameter("smooth") == "False"
    assert parameters.mode is mode.FAST and parameters.name == "spleen" and parameters.chunk == 16

    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    parameters.segmentation = segmentation
    parameters.opacity = 0.75
    parameters.mode = mode.EXACT
    assert ui.segmentationSelector.currentNode() is segmentation
    assert ui.opacitySlider.value == 0.75 and ui.modeBox.currentText == "EXACT"
    with pytest.raises(ValueError, match="range"):
        parameters.opacity = 2.0
    with pytest.raises(TypeError):
        parameters.volume = segmentation


def test_a_disconnected_panel_leaves_the_node_alone(panel):
    parameters = panel.parameters
    panel.exit()
    panel.ui.nameEdit.text = "kidney"
    assert parameters.name == "liver"


def test_parameters_are_saved_and_loaded_with_the_scene(panel, volume, tmp_path):
    import slicer

    panel.parameters.volume = volume
    panel.parameters.name = "spleen"
    panel.parameters.opacity = 0.5
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    expected = slicer.util.arrayFromVolume(volume).copy()
    del volume
    host.close_scene()
    assert panel.parameters.name == "liver" and panel.parameters.volume is None
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    panel.exit()
    panel.enter()
    assert panel.parameters.name == "spleen" and panel.ui.nameEdit.text == "spleen"
    assert panel.ui.opacitySlider.value == 0.5
    assert panel.ui.volumeSelector.currentNode().GetName() == "CT"
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(panel.parameters.volume), expected)


def test_a_clicked_button_changes_the_real_volume(panel, volume):
    import qt
    import slicer

    panel.ui.volumeSelector.setCurrentNode(volume)
    before = slicer.util.arrayFromVolume(volume).copy()
    qt.QTest.mouseClick(panel.ui.applyButton, qt.Qt.LeftButton)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(volume), before + 1)
    assert not host.messages


def test_an_error_message_is_recorded_without_opening_a_dialog(panel):
    panel.ui.applyButton.click()
    assert host.messages.texts("error") == ["Failed.\n\nChoose a volume"]
    assert isinstance(host.errors.pop(), ValueError)


def test_reloading_imports_the_changed_source_and_cleans_up_the_old_panel(panel, small_path):
    import slicer

    source = small_path.read_text("utf-8")
    small_path.write_text(source.replace("[:] += 1", "[:] += 100  # more"), "utf-8")
    slicer.util.reloadScriptedModule("Small")
    assert panel.calls == ["enter", "cleanup"]
    renewed = slicer.modules.SmallWidget
    assert renewed is not panel and renewed.parent is panel.parent
    node = slicer.util.addVolumeFromArray(np.zeros((2, 2, 2), np.int16))
    renewed.logic.process(node)
    assert (slicer.util.arrayFromVolume(node) == 100).all()


def test_the_self_test_of_a_module_runs(panel):
    import slicer

    slicer.selfTests["Small"]()
    assert slicer.selfTestRan
    del slicer.selfTestRan


def test_an_unloaded_module_leaves_nothing_behind(scene, small_path):
    import slicer

    host.load_module(small_path)
    panel = host.select_module("Small")
    host.unload_module("Small")
    assert panel.calls == ["enter", "exit", "cleanup"]
    assert not hasattr(slicer.modules, "small") and "Small" not in sys.modules
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")  # no deleted widget receives the event


def test_the_subject_hierarchy_follows_the_scene(scene, volume):
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(volume)
    assert item and hierarchy.GetItemName(item) == "CT"
    assert hierarchy.GetItemOwnerPluginName(item) == "Volumes"
    assert not hierarchy.GetItemByDataNode(volume.GetDisplayNode())
    scene.RemoveNode(volume)
    assert hierarchy.GetItemDataNode(item) is None


def test_the_application_emits_signals_at_its_start_and_its_end(application):
    seen = []
    for signal in ("startupCompleted", "aboutToQuit"):
        application.connect(f"{signal}()", lambda signal=signal: seen.append(signal))
        getattr(application, signal).emit()
    assert seen == ["startupCompleted", "aboutToQuit"]


def test_a_registered_sample_is_listed_once(application):
    import SampleData
    import slicer

    sample = {"sampleName": "Hippocampus", "uris": "https://example.org/a", "fileNames": "a.nrrd"}
    for _ in range(2):
        SampleData.SampleDataLogic.registerCustomSampleDataSource("Own", **sample)
    (source,) = slicer.modules.sampleDataSources.pop("Own")
    assert source.fileNames == ["a.nrrd"]
    with pytest.raises(TypeError):
        SampleData.SampleDataLogic.registerCustomSampleDataSource("Own", fileName="a.nrrd")


def test_a_confirmation_gets_the_next_queued_answer(scene):
    import slicer

    host.messages.answers.extend([False, True])
    assert slicer.util.confirmOkCancelDisplay("Overwrite?") is False
    assert slicer.util.confirmYesNoDisplay("Sure?") is True
    assert host.messages.texts("question") == ["Overwrite?", "Sure?"]


def test_settings_stay_in_the_temporary_folder(application):
    import qt

    settings = qt.QSettings()
    settings.setValue("MaskSAM/Device", "cpu")
    settings.sync()
    assert os.path.realpath(settings.fileName()).startswith(
        os.path.realpath(application.temporaryPath)
    )
    settings.clear()


def test_a_picture_with_panel_and_four_views_is_not_blank(panel, volume, tmp_path):
    import slicer

    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = segmentation.GetSegmentation().AddEmptySegment("box", "box", (1, 0.5, 0))
    labels = np.zeros((20, 24, 28), np.uint8)
    labels[5:15, 6:18, 7:21] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(labels, segmentation, segment, volume)
    segmentation.CreateClosedSurfaceRepresentation()
    window = host.open_window("Small", (1000, 640))
    try:
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        picture = window.save(tmp_path / "window.png")
        assert (picture.width(), picture.height()) == (1000, 640)
        for name, view in host.open_views().items():
            pixels = view.image().reshape(-1, 3).astype(int)
            assert len(np.unique(pixels, axis=0)) > 20, name
            orange = (pixels[:, 0] > pixels[:, 2] + 40) & (pixels[:, 0] > pixels[:, 1])
            assert orange.mean() > 0.001, name
        assert slicer.util.mainWindow() is window
    finally:
        window.close()
    assert slicer.util.mainWindow() is None and slicer.app.layoutManager() is None


def test_a_click_on_a_picture_places_a_point_at_its_position(panel, volume):
    import qt
    import slicer

    window = host.open_window("Small", (1000, 640))
    try:
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        window.refresh()
        points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
        points.CreateDefaultDisplayNodes()
        logic = slicer.app.applicationLogic()
        logic.GetSelectionNode().SetReferenceActivePlaceNodeClassName(points.GetClassName())
        logic.GetSelectionNode().SetActivePlaceNodeID(points.GetID())
        logic.GetInteractionNode().SetCurrentInteractionMode(logic.GetInteractionNode().Place)
        picture, view = window.picture("Red"), host.open_views()["Red"]
        place = qt.QPoint(picture.width // 3, picture.height // 3)
        qt.QTest.mouseMove(picture, place)
        qt.QTest.mouseClick(picture, qt.Qt.LeftButton, qt.Qt.NoModifier, place)
        expected = view.xy_to_ras(place.x(), picture.height - 1 - place.y())
        assert points.GetNumberOfDefinedControlPoints() == 1
        assert points.GetNthControlPointPosition(0) == pytest.approx(expected, abs=1e-6)
        logic.GetInteractionNode().SetCurrentInteractionMode(
            logic.GetInteractionNode().ViewTransform
        )
    finally:
        window.close()
