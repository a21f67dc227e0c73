"""Qt in the stand-in for the application, which is as strict as PythonQt."""

import pytest

from Testing import host
from Testing.host.tests.small_module import ui_file, ui_widget


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


def test_an_exception_in_a_slot_is_recorded(scene):
    import qt

    button = qt.QPushButton()
    button.connect("clicked()", lambda: 1 / 0)
    button.click()
    assert isinstance(host.errors.pop(), ZeroDivisionError)


def test_a_signal_can_be_emitted_thousands_of_times(scene):
    import slicer

    selector, seen = slicer.qMRMLNodeComboBox(), []
    selector.connect("currentNodeChanged(bool)", seen.append)
    for _ in range(5000):  # PySide6 6.12.0 aborts after some hundreds
        selector.currentNodeValid.emit(True)
    assert seen == [True] * 5000


def load_ui(tmp_path, content):
    import slicer

    path = tmp_path / "Small.ui"
    path.write_text(content, encoding="utf-8")
    return slicer.util.loadUI(str(path))


def test_an_unknown_widget_in_a_ui_file_raises(scene, tmp_path):
    with pytest.raises(RuntimeError, match="qMRMLInventedWidget"):
        load_ui(tmp_path, ui_file(ui_widget("qMRMLInventedWidget", "invented")))


def test_an_unknown_property_in_a_ui_file_raises(scene, tmp_path):
    wrong = ui_widget("QPushButton", "wrong", ("txet", "<string>Apply</string>"))
    with pytest.raises(RuntimeError, match="txet"):
        load_ui(tmp_path, ui_file(wrong))


def test_a_connection_to_an_unknown_slot_in_a_ui_file_raises(scene, tmp_path):
    with pytest.raises(RuntimeError, match="setScene"):
        load_ui(tmp_path, ui_file(connection="setScene(vtkMRMLScene*)"))


def test_properties_set_in_a_ui_file_are_applied(panel):
    ui = panel.ui
    assert ui.volumeSelector.addEnabled is False and ui.volumeSelector.noneEnabled is False
    assert ui.segmentationSelector.noneDisplay == "Create new on Apply"
    assert ui.segmentationSelector.nodeTypes == ("vtkMRMLSegmentationNode",)
    assert ui.inputsButton.text == "Inputs" and ui.applyButton.text == "Apply"
    assert ui.opacitySlider.singleStep == pytest.approx(0.05)


def test_a_section_that_a_ui_file_collapses_hides_its_widgets(scene, tmp_path):
    import slicer

    path = tmp_path / "section.ui"
    path.write_text(
        '<ui version="4.0"><widget class="qMRMLWidget" name="root"><layout class="QVBoxLayout">'
        '<item><widget class="ctkCollapsibleButton" name="section">'
        '<property name="collapsed"><bool>true</bool></property><layout class="QVBoxLayout">'
        '<item><widget class="QLabel" name="inside"/></item></layout></widget></item>'
        "</layout></widget></ui>",
        encoding="utf-8",
    )
    widget = slicer.util.loadUI(str(path))
    ui = slicer.util.childWidgetVariables(widget)
    assert not ui.inside.isVisibleTo(widget)
    ui.section.collapsed = False
    assert ui.inside.isVisibleTo(widget)


def test_a_node_selector_follows_the_scene(scene):
    import qt
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
    assert selector.findChild(qt.QComboBox).currentText == "renamed"
    scene.RemoveNode(second)
    assert selector.currentNode() is first and seen == [second, first]
    assert selector.addNode("vtkMRMLTextNode") is None
    added = selector.addNode()
    assert added.GetAttribute("MaskSAM") == "yes" and selector.currentNode() is added
    host.close_scene()
    assert selector.currentNode() is None and selector.nodeCount() == 0


def test_a_node_selector_hides_single_nodes(scene):
    import slicer

    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLModelNode"]
    selector.setMRMLScene(scene)
    one, other = (scene.AddNewNodeByClass("vtkMRMLModelNode", name) for name in "ab")
    filter_model = selector.sortFilterProxyModel()
    filter_model.hiddenNodeIDs = [one.GetID()]
    assert [selector.nodeFromIndex(n) for n in range(selector.nodeCount())] == [other]
    filter_model.hiddenNodeIDs = []
    assert selector.nodeCount() == 2
    with pytest.raises(AttributeError):
        filter_model.hiddenNodes = []


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
