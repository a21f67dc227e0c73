"""A small scripted module, and fixtures that write and load it."""

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


def ui_widget(cls, name, *properties, parameter=None):
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
        ui_widget(
            "qMRMLNodeComboBox",
            "volumeSelector",
            ("nodeTypes", volume),
            ("addEnabled", false),
            ("removeEnabled", false),
            parameter="volume",
        ),
        ui_widget(
            "qMRMLNodeComboBox",
            "segmentationSelector",
            ("nodeTypes", segmentation),
            ("noneEnabled", true),
            ("renameEnabled", true),
            ("noneDisplay", "<string>Create new on Apply</string>"),
            parameter="segmentation",
        ),
        ui_widget(
            "ctkSliderWidget",
            "opacitySlider",
            ("singleStep", "<double>0.05</double>"),
            parameter="opacity",
        ),
        ui_widget(
            "QCheckBox", "smoothBox", ("text", "<string>Smooth</string>"), parameter="smooth"
        ),
        ui_widget("QComboBox", "modeBox", parameter="mode"),
        ui_widget("QLineEdit", "nameEdit", parameter="name"),
        ui_widget("QComboBox", "chunkBox", parameter="chunk"),
        ui_widget("QPushButton", "applyButton", ("text", "<string>Apply</string>")),
        *extra,
    ]
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
