"""The stand-in for the application: as strict as PythonQt, as real as slicer-core allows."""

import os
import sys
import textwrap

import numpy as np
import pytest

from Testing import host

MODULE = """
    import enum
    from typing import Annotated

    import qt
    import slicer
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
    from slicer.i18n import tr as _
    from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
    from slicer.ScriptedLoadableModule import *
    from slicer.util import VTKObservationMixin


    class Mode(enum.Enum):
        FAST = "fast"
        EXACT = "exact"


    @parameterNodeWrapper
    class SmallParameters:
        volume: vtkMRMLScalarVolumeNode
        segmentation: vtkMRMLSegmentationNode | None
        opacity: Annotated[float, WithinRange(0, 1)] = 0.25
        smooth: bool = True
        mode: Mode = Mode.EXACT
        name: str = "liver"
        chunk: Annotated[int, Choice([4, 8, 16])] = 8


    class Small(ScriptedLoadableModule):
        def __init__(self, parent):
            super().__init__(parent)
            parent.title = _("Small")
            parent.categories = ["Segmentation"]


    class SmallWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
        def __init__(self, parent=None):
            ScriptedLoadableModuleWidget.__init__(self, parent)
            VTKObservationMixin.__init__(self)
            self.parameters = self.tag = None
            self.calls = []

        def setup(self):
            super().setup()
            root = slicer.util.loadUI(self.resourcePath("UI/Small.ui"))
            self.layout.addWidget(root)
            self.ui = slicer.util.childWidgetVariables(root)
            root.setMRMLScene(slicer.mrmlScene)
            self.logic = SmallLogic()
            self.ui.applyButton.connect("clicked(bool)", self.onApply)
            scene = slicer.mrmlScene
            self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
            self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)

        def enter(self):
            self.calls.append("enter")
            self.parameters = SmallParameters(self.logic.getParameterNode())
            self.tag = self.parameters.connectGui(self.ui)

        def exit(self):
            self.calls.append("exit")
            if self.parameters is not None:
                self.parameters.disconnectGui(self.tag)
                self.parameters = None

        def onSceneStartClose(self, caller, event):
            self.exit()

        def onSceneEndClose(self, caller, event):
            if self.parent.isEntered:
                self.enter()

        def cleanup(self):
            self.calls.append("cleanup")
            if self.parameters is not None:
                self.parameters.disconnectGui(self.tag)
            self.removeObservers()

        def onApply(self):
            with slicer.util.tryWithErrorDisplay(_("Failed."), waitCursor=True):
                self.logic.process(self.parameters.volume)


    class SmallLogic(ScriptedLoadableModuleLogic):
        def process(self, volume):
            if volume is None:
                raise ValueError("Choose a volume")
            slicer.util.arrayFromVolume(volume)[:] += 1
            slicer.util.arrayFromVolumeModified(volume)


    class SmallTest(ScriptedLoadableModuleTest):
        def runTest(self):
            self.setUp()
            slicer.selfTestRan = True
"""


def _widget(cls, name, *properties, parameter=None):
    text = "".join(f'<property name="{key}">{value}</property>' for key, value in properties)
    if parameter:
        text += (
            '<property name="SlicerParameterName" stdset="0">'
            f"<string>{parameter}</string></property>"
        )
    return f'<item><widget class="{cls}" name="{name}">{text}</widget></item>'


def ui_file(*extra, connection="setMRMLScene(vtkMRMLScene*)"):
    true, false = "<bool>true</bool>", "<bool>false</bool>"
    volume = "<stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist>"
    segmentation = "<stringlist><string>vtkMRMLSegmentationNode</string></stringlist>"
    widgets = [
        _widget("qMRMLNodeComboBox", "volumeSelector", ("nodeTypes", volume),
                ("addEnabled", false), ("removeEnabled", false), parameter="volume"),
        _widget("qMRMLNodeComboBox", "segmentationSelector", ("nodeTypes", segmentation),
                ("noneEnabled", true), ("renameEnabled", true),
                ("noneDisplay", "<string>Create new on Apply</string>"),
                parameter="segmentation"),
        _widget("ctkSliderWidget", "opacitySlider", ("singleStep", "<double>0.05</double>"),
                parameter="opacity"),
        _widget("QCheckBox", "smoothBox", ("text", "<string>Smooth</string>"), parameter="smooth"),
        _widget("QComboBox", "modeBox", parameter="mode"),
        _widget("QLineEdit", "nameEdit", parameter="name"),
        _widget("QComboBox", "chunkBox", parameter="chunk"),
        _widget("QPushButton", "applyButton", ("text", "<string>Apply</string>")),
        *extra,
    ]  # fmt: skip
    connections = "".join(
        "<connection><sender>Small</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>"
        f"<receiver>{name}</receiver><slot>{connection}</slot></connection>"
        for name in ("volumeSelector", "segmentationSelector")
    )
    return (
        '<ui version="4.0"><class>Small</class><widget class="qMRMLWidget" name="Small">'
        '<layout class="QVBoxLayout" name="outer"><item>'
        '<widget class="ctkCollapsibleButton" name="inputsButton"><property name="text">'
        '<string>Inputs</string></property><layout class="QVBoxLayout" name="inner">'
        f"{''.join(widgets)}</layout></widget></item></layout></widget>"
        f"<connections>{connections}</connections></ui>"
    )


@pytest.fixture
def small_path(tmp_path):
    path = tmp_path / "Small.py"
    path.write_text(textwrap.dedent(MODULE), encoding="utf-8")
    folder = tmp_path / "Resources" / "UI"
    folder.mkdir(parents=True)
    (folder / "Small.ui").write_text(ui_file(), encoding="utf-8")
    return path


@pytest.fixture
def panel(scene, small_path):
    host.load_module(small_path)
    try:
        yield host.select_module("Small")
    finally:
        host.unload_module("Small")


@pytest.fixture
def volume(scene):
    import slicer

    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    node.CreateDefaultDisplayNodes()
    k, j, i = np.mgrid[:20, :24, :28]
    slicer.util.updateVolumeFromArray(node, (10 * i + 5 * j + 3 * k).astype(np.int16))
    return node


# PythonQt's manners


def test_an_unknown_attribute_of_a_widget_raises(scene):
    import ctk
    import qt
    import slicer

    for widget in (qt.QPushButton(), ctk.ctkSliderWidget(), slicer.qMRMLNodeComboBox()):
        with pytest.raises(AttributeError):
            widget.txet = "Apply"
        with pytest.raises(AttributeError):
            _ = widget.txet


def test_a_python_class_may_have_attributes_of_its_own(scene):
    import qt

    class Own(qt.QWidget):
        pass

    own = Own()
    own.anything = 3
    assert own.anything == 3


def test_a_property_is_an_attribute_and_not_a_function(scene):
    import qt

    button = qt.QPushButton("Apply")
    assert button.text == "Apply" and button.enabled is True
    button.toolTip = "Go"
    assert button.toolTip == "Go"
    with pytest.raises(TypeError):
        button.text()
    timer = qt.QTimer()
    timer.singleShot = True
    assert timer.singleShot is True and callable(qt.QTimer.singleShot)


def test_an_unknown_signal_raises(scene):
    import qt
    import slicer

    with pytest.raises(ValueError, match="does not exist"):
        qt.QPushButton().connect("clickd(bool)", print)
    with pytest.raises(ValueError, match="does not exist"):
        slicer.qMRMLNodeComboBox().connect("currentNodeChanged(vtkMRMLVolumeNode*)", print)


def test_a_slot_gets_as_many_arguments_as_it_takes(scene):
    import qt

    button, seen = qt.QPushButton(), []
    button.checkable = True
    button.connect("clicked(bool)", lambda checked: seen.append(checked))
    button.connect("clicked(bool)", lambda: seen.append("none"))
    button.connect("clicked()", lambda: seen.append("without"))
    button.click()
    assert seen == [True, "none", "without"]


def test_a_disconnected_slot_is_not_called(scene):
    import qt

    button, seen = qt.QPushButton(), []
    slot = seen.append
    button.connect("clicked(bool)", slot)
    button.click()
    assert button.disconnect("clicked(bool)", slot)
    button.click()
    assert seen == [False]


def test_what_a_slot_raises_is_recorded(scene):
    import qt

    button = qt.QPushButton()
    button.connect("clicked()", lambda: 1 / 0)
    button.click()
    assert isinstance(host.errors.pop(), ZeroDivisionError)


def test_signals_may_be_emitted_as_often_as_one_likes(scene):
    import slicer

    selector, seen = slicer.qMRMLNodeComboBox(), []
    selector.connect("currentNodeChanged(bool)", seen.append)
    for _ in range(5000):  # a version of PySide6 aborts after some hundreds
        selector.currentNodeValid.emit(True)
    assert seen == [True] * 5000


# .ui files


def load_ui(tmp_path, content):
    import slicer

    path = tmp_path / "Small.ui"
    path.write_text(content, encoding="utf-8")
    return slicer.util.loadUI(str(path))


def test_an_unknown_widget_in_a_ui_file_raises(scene, tmp_path):
    with pytest.raises(RuntimeError, match="qMRMLInventedWidget"):
        load_ui(tmp_path, ui_file(_widget("qMRMLInventedWidget", "invented")))


def test_an_unknown_property_in_a_ui_file_raises(scene, tmp_path):
    wrong = _widget("QPushButton", "wrong", ("txet", "<string>Apply</string>"))
    with pytest.raises(RuntimeError, match="txet"):
        load_ui(tmp_path, ui_file(wrong))


def test_a_connection_to_an_unknown_slot_in_a_ui_file_raises(scene, tmp_path):
    with pytest.raises(RuntimeError, match="setScene"):
        load_ui(tmp_path, ui_file(connection="setScene(vtkMRMLScene*)"))


def test_what_the_ui_file_sets_arrives(panel):
    ui = panel.ui
    assert ui.volumeSelector.addEnabled is False and ui.volumeSelector.noneEnabled is False
    assert ui.segmentationSelector.noneDisplay == "Create new on Apply"
    assert ui.segmentationSelector.nodeTypes == ("vtkMRMLSegmentationNode",)
    assert ui.inputsButton.text == "Inputs" and ui.applyButton.text == "Apply"
    assert ui.opacitySlider.singleStep == pytest.approx(0.05)


# Widgets


def test_a_node_selector_follows_the_scene(scene):
    import slicer

    selector, seen = slicer.qMRMLNodeComboBox(), []
    selector.nodeTypes = ["vtkMRMLModelNode"]
    selector.addAttribute("vtkMRMLModelNode", "MaskSAM", "yes")
    selector.setMRMLScene(scene)
    selector.connect("currentNodeChanged(vtkMRMLNode*)", seen.append)
    first, second, _ = (
        scene.AddNewNodeByClass("vtkMRMLModelNode", name) for name in ("first", "second", "other")
    )
    assert selector.nodeCount() == 0
    for node in (first, second):
        node.SetAttribute("MaskSAM", "yes")
    assert selector.nodeCount() == 2 and selector.currentNode() is None
    selector.setCurrentNode(second)
    second.SetName("renamed")
    assert selector.findChildren(type(selector._box))[0].currentText == "renamed"
    scene.RemoveNode(second)
    assert selector.currentNode() is first and seen == [second, first]
    assert selector.addNode("vtkMRMLTextNode") is None
    added = selector.addNode()
    assert added.GetAttribute("MaskSAM") == "yes" and selector.currentNode() is added
    host.close_scene()
    assert selector.currentNode() is None and selector.nodeCount() == 0


def test_the_table_of_segments_shows_and_edits_them(scene):
    import slicer

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.CreateDefaultDisplayNodes()
    table = slicer.qMRMLSegmentsTableView()
    table.setSegmentationNode(node)
    for name in ("liver", "spleen"):
        node.GetSegmentation().AddEmptySegment(name, name, (1, 0, 0))
    assert table.segmentCount == 2 and table.displayedSegmentIDs() == ["liver", "spleen"]
    table.setSelectedSegmentIDs(["spleen"])
    node.GetSegmentation().GetSegment("liver").SetName("Liver")
    assert table.tableWidget().item(0, table.NAME).text() == "Liver"
    assert table.selectedSegmentIDs() == ["spleen"]
    table.tableWidget().item(1, table.NAME).setText("Spleen")
    assert node.GetSegmentation().GetSegment("spleen").GetName() == "Spleen"


# The life of a module


def test_a_module_is_found_where_the_application_has_it(panel, small_path):
    import slicer

    assert slicer.modules.small.title == "Small"
    assert slicer.modules.SmallWidget is panel
    assert slicer.util.getModuleWidget("Small") is panel
    assert os.path.samefile(slicer.util.modulePath("Small"), small_path)
    assert panel.calls == ["enter"]
    host.select_module(None)
    assert panel.calls == ["enter", "exit"]
    host.select_module("Small")


def test_parameters_go_from_the_widgets_to_the_node_and_back(panel, volume):
    import slicer

    ui, parameters = panel.ui, panel.parameters
    mode = type(parameters.mode)
    node = parameters.parameterNode
    assert (ui.opacitySlider.value, ui.modeBox.currentText, ui.chunkBox.currentText) == (
        0.25, "EXACT", "8")  # fmt: skip
    assert ui.volumeSelector.currentNode() is None  # never chosen by itself
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


def test_parameters_survive_a_scene_file(panel, volume, tmp_path):
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


def test_a_clicked_button_works_on_the_real_volume(panel, volume):
    import qt
    import slicer

    panel.ui.volumeSelector.setCurrentNode(volume)
    before = slicer.util.arrayFromVolume(volume).copy()
    qt.QTest.mouseClick(panel.ui.applyButton, qt.Qt.LeftButton)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(volume), before + 1)
    assert not host.messages


def test_an_error_is_said_and_not_shown_in_a_box(panel):
    panel.ui.applyButton.click()
    assert host.messages.texts("error") == ["Failed.\n\nChoose a volume"]
    assert isinstance(host.errors.pop(), ValueError)


def test_reload_brings_the_changed_source_and_cleans_up_the_old_panel(panel, small_path):
    import slicer

    source = small_path.read_text("utf-8")
    small_path.write_text(source.replace('parent.title = _("Small")', "pass"), "utf-8")
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


def test_an_unloaded_module_leaves_nothing(scene, small_path):
    import slicer

    host.load_module(small_path)
    panel = host.select_module("Small")
    host.unload_module("Small")
    assert panel.calls == ["enter", "exit", "cleanup"]
    assert not hasattr(slicer.modules, "small") and "Small" not in sys.modules
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")  # no dead widget hears of it


# The scene


def test_the_subject_hierarchy_follows_the_scene(scene, volume):
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(volume)
    assert item and hierarchy.GetItemName(item) == "CT"
    assert hierarchy.GetItemOwnerPluginName(item) == "Volumes"
    assert not hierarchy.GetItemByDataNode(volume.GetDisplayNode())
    scene.RemoveNode(volume)
    assert hierarchy.GetItemDataNode(item) is None


def test_the_application_tells_of_its_start_and_its_end(application):
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


def test_a_confirmation_gets_the_answer_that_waits(scene):
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


# Pictures


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


def test_a_mouse_over_a_picture_places_a_point_where_it_is(panel, volume):
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
