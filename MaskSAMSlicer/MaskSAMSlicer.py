"""The scripted module MaskSAM: metadata, the panel's host, the logic for scripts, a self-test."""

import os
import sys

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class MaskSAMSlicer(ScriptedLoadableModule):
    """What the application shows of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("MaskSAM")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["The MaskSAM authors"]
        self.parent.helpText = _(
            "Named, editable segments with one click and without any prompt: MaskSAM, a Segment"
            " Anything Model that proposes its own masks and boxes and gives each of them its"
            " class. For research only, not for diagnosis; nothing leaves this computer."
        )
        self.parent.acknowledgementText = _(
            "MaskSAM: B. Xie et al., ICCV 2025 (arXiv:2403.14103). The model 'brain' was trained on"
            " labelmaps of SynthSeg (B. Billot et al., 2023, Apache-2.0), the model 'hippocampus'"
            " on the Medical Segmentation Decathlon (Task04, CC-BY-SA 4.0)."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """The head that the tutorial segments, in the Sample Data module."""
    import SampleData

    logic = SampleData.SampleDataLogic
    category = "MaskSAM"
    if hasattr(logic, "registerCustomSampleDataCategory"):  # Slicer 5.11 and later
        logic.registerCustomSampleDataCategory(category, title=_("MaskSAM"))
    icons = os.path.join(os.path.dirname(__file__), "Resources", "Icons")
    # The head that comes with Slicer itself, from where Slicer takes it too.
    checksum = "cc211f0dfd9a05ca3841ce1141b292898b2dd2d3f08286affadf823a7e58df93"
    logic.registerCustomSampleDataSource(
        category=category,
        sampleName="MaskSAMHead",
        uris=f"https://github.com/Slicer/SlicerTestingData/releases/download/SHA256/{checksum}",
        fileNames="MR-head.nrrd",
        checksums=f"SHA256:{checksum}",
        nodeNames="MRHead",
        thumbnailFileName=os.path.join(icons, "MaskSAMSlicer.png"),
    )


class MaskSAMSlicerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Keeps the panel and the scene's parameter node together."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None
        self.ui = None
        self._parameters = None
        self._gui_tag = None
        self._update_pending = False

    def setup(self):
        """Build the panel; nothing here depends on what may have to be installed."""
        from MaskSAMSlicerLib.panel.panel import Panel

        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/MaskSAMSlicer.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = MaskSAMSlicerLogic()
        self.panel = Panel(self.ui, self.logic.segmentation)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self._scene_start_close)
        self.addObserver(scene, scene.EndCloseEvent, self._scene_changed)
        self.addObserver(scene, scene.EndImportEvent, self._scene_changed)
        self.addObserver(scene, scene.NodeRemovedEvent, self._node_removed)
        slicer.app.connect("aboutToQuit()", self._quit)
        self._take_parameters()

    def cleanup(self):
        """The widget is destroyed: at the end, or before a reload."""
        try:
            slicer.app.disconnect("aboutToQuit()", self._quit)
            self._set_parameters(None)
        finally:
            self.removeObservers()
            if self.panel is not None:
                self.panel.close()
            if self.logic is not None:
                self.logic.close()

    def onReload(self):
        """Reload the library too: by itself the application reloads only this file."""
        for name in [n for n in sys.modules if n.split(".")[0] in ("MaskSAMSlicerLib",)]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def enter(self):
        """The person opens the module."""
        self.panel.check_packages()
        self._take_parameters()
        self.panel.ask_devices()

    def exit(self):
        """The person opens another module: the parameters are not watched meanwhile."""
        self._set_parameters(None)

    def _quit(self):
        self.logic.close()

    def _scene_start_close(self, _caller, _event):
        self.panel.scene_closing()
        self._set_parameters(None)

    def _scene_changed(self, _caller, _event):
        if self.parent.isEntered:
            self._take_parameters()

    def _node_removed(self, _caller, _event):
        # Once, however many nodes go.
        if not self._update_pending:
            self._update_pending = True
            qt.QTimer.singleShot(0, self._update_later)

    def _update_later(self):
        self._update_pending = False
        if self._parameters is not None:
            self.panel.update()

    def _take_parameters(self):
        self._set_parameters(self.logic.getParameterNode())
        if not self._parameters.inputVolume:
            first = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
            if first is not None:
                self._parameters.inputVolume = first

    def _set_parameters(self, parameters):
        modified = vtk.vtkCommand.ModifiedEvent
        if self._parameters is not None:
            self._parameters.disconnectGui(self._gui_tag)
            self._gui_tag = None
            self.removeObserver(self._parameters, modified, self._parameters_modified)
        self._parameters = parameters
        if parameters is not None:
            self._gui_tag = parameters.connectGui(self.ui)
            self.addObserver(parameters, modified, self._parameters_modified)
        if self.panel is not None:
            self.panel.set_parameters(parameters)

    def _parameters_modified(self, _caller=None, _event=None):
        self.panel.update()


class MaskSAMSlicerLogic(ScriptedLoadableModuleLogic):
    """The module for scripts.

    Example:
        >>> logic = slicer.util.getModuleLogic("MaskSAMSlicer")
        >>> segmentation = logic.segment(volumeNode)  # a whole head
        >>> segmentation = logic.segment(volumeNode, model="hippocampus", roiNode=roi)
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        from MaskSAMSlicerLib.logic import SegmentationLogic

        self.segmentation = SegmentationLogic()

    def getParameterNode(self):
        """The typed parameters of the scene."""
        from MaskSAMSlicerLib.parameters import Parameters

        return Parameters(super().getParameterNode())

    def segment(self, volumeNode, **choices):
        """Segments a volume and waits; see ``SegmentationLogic.segment`` for the choices (model,
        roiNode, boxNodes, segmentationNode, device, rule, progress, overwrite)."""
        return self.segmentation.segment(volumeNode, **choices)

    def update(self, segmentationNode, **choices):
        """Segments again from changed boxes and waits; see ``SegmentationLogic.update`` for the
        choices (boxNodes, overwrite, progress)."""
        return self.segmentation.update(segmentationNode, **choices)

    def close(self):
        """Ends the worker process."""
        self.segmentation.close()


class MaskSAMSlicerTest(ScriptedLoadableModuleTest):
    """A run on a made-up head, for Slicer's own self-test module."""

    def setUp(self):
        """An empty scene."""
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        """All tests."""
        self.setUp()
        self.test_a_volume_gets_segments_with_the_model_s_names()

    def test_a_volume_gets_segments_with_the_model_s_names(self):
        """The whole way: volume, worker, model, segments."""
        import numpy as np

        from MaskSAMSlicerLib import installer

        lacking = installer.missing()
        if lacking:
            # A build machine: the panel says the same to a person.
            self.delayDisplay(_("Not run, for packages are missing: {0}").format(lacking))
            return
        self.delayDisplay(_("Segmenting a made-up volume"))
        random = np.random.default_rng(0)
        voxels = random.normal(300, 30, (36, 52, 38)).astype(np.float32)
        k, j, i = np.ogrid[:36, :52, :38]
        voxels[((k - 18) / 7) ** 2 + ((j - 26) / 14) ** 2 + ((i - 19) / 8) ** 2 < 1] += 300
        volume = slicer.util.addVolumeFromArray(voxels, np.eye(4), "made-up")
        logic = MaskSAMSlicerLogic()
        try:
            node = logic.segment(volume, model="hippocampus")
        finally:
            logic.close()
        segmentation = node.GetSegmentation()
        names = {
            segmentation.GetNthSegment(n).GetName()
            for n in range(segmentation.GetNumberOfSegments())
        }
        self.assertTrue(names <= {"Anterior", "Posterior"}, names)
        self.assertEqual(node.GetTransformNodeID(), volume.GetTransformNodeID())
        self.delayDisplay(_("Passed: {names}").format(names=sorted(names)))
