"""The scripted module MaskSAM: metadata, widget, logic for scripts, and self-test."""

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
    """The module's metadata."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("MaskSAM")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["PLACEHOLDER_CONTRIBUTORS"]
        self.parent.helpText = _(
            "Segments 29 structures of the brain in MR images of any contrast, the head and body of"
            " the hippocampus in T1-weighted MR, and any structure inside boxes that you draw, as"
            " named, editable segments. An independent implementation of MaskSAM, a Segment"
            " Anything Model that prompts itself. For research only, not for diagnosis. Images"
            " never leave this computer."
        )
        self.parent.acknowledgementText = _(
            "Method: B. Xie et al., ICCV 2025 (arXiv:2403.14103), who had no part in this"
            " implementation. The model 'brain' (Apache-2.0) was trained on labelmaps of SynthSeg"
            " (B. Billot et al., 2023), the model 'hippocampus' (CC-BY-SA-4.0) on the Medical"
            " Segmentation Decathlon (Task04, CC-BY-SA-4.0)."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)
        slicer.app.connect("startupCompleted()", loadTerminology)


def loadTerminology():
    """Add the codes of the bundled models to Slicer's terminology selector."""
    # Imported late, because Slicer reads this file before the nodes of Markups are registered.
    from MaskSAMSlicerLib.mrml.terminology import load_terminology

    load_terminology()


def registerSampleData():
    """Add the head of the tutorial to the Sample Data module."""
    import SampleData

    logic = SampleData.SampleDataLogic
    category = "MaskSAM"
    if hasattr(logic, "registerCustomSampleDataCategory"):  # Slicer 5.11 and later
        logic.registerCustomSampleDataCategory(category, title=_("MaskSAM"))
    icons = os.path.join(os.path.dirname(__file__), "Resources", "Icons")
    # This is Slicer's own sample head, at Slicer's own address.
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
    """The widget that connects the panel with the scene's parameter node."""

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
        """Build the panel; no package that may be missing is imported."""
        # Imported late, because Slicer reads this file before the nodes of Markups are registered.
        from MaskSAMSlicerLib.panel.panel import Panel

        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/MaskSAMSlicer.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = MaskSAMSlicerLogic()
        self.panel = Panel(self.ui, self.logic.segmentation)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self._on_scene_start_close)
        self.addObserver(scene, scene.EndCloseEvent, self._on_scene_changed)
        for event in (scene.EndImportEvent, scene.EndUndoEvent, scene.EndRedoEvent):
            self.addObserver(scene, event, self._on_scene_changed)
        self.addObserver(scene, scene.NodeRemovedEvent, self._on_node_removed)
        slicer.app.connect("aboutToQuit()", self._on_quit)
        self._connect_parameters()

    def cleanup(self):
        """Close the panel and end the worker, before Slicer quits or reloads the module."""
        try:
            slicer.app.disconnect("aboutToQuit()", self._on_quit)
            self._set_parameters(None)
        finally:
            self.removeObservers()
            if self.panel is not None:
                self.panel.close()
            if self.logic is not None:
                self.logic.close()

    def onReload(self):
        """Reload the module with its library, because Slicer itself reloads only this file."""
        for name in [n for n in sys.modules if n.split(".")[0] == "MaskSAMSlicerLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def enter(self):
        """Connect the parameter node when the user opens the module."""
        self.panel.check_packages()
        self._connect_parameters()
        self.panel.enter()

    def exit(self):
        """Disconnect the widgets when the user opens another module.

        The panel keeps the parameter node, because a run may end while the module is left.
        """
        self.panel.exit()
        self._disconnect_gui()

    def _on_quit(self):
        self.logic.close()

    def _on_scene_start_close(self, _caller, _event):
        self._set_parameters(None)
        self.panel.scene_closing()

    def _on_scene_changed(self, _caller, _event):
        if self.parent.isEntered:
            self._connect_parameters()

    def _on_node_removed(self, _caller, _event):
        # The panel is updated once, however many nodes are removed at a time. Boxes are removed
        # then, too, because whoever removes a segmentation may still be iterating over the scene.
        if not self._update_pending:
            self._update_pending = True
            qt.QTimer.singleShot(0, self._update_later)

    def _update_later(self):
        from MaskSAMSlicerLib.mrml.box_nodes import remove_orphans

        self._update_pending = False
        if not slicer.mrmlScene.IsBatchProcessing():  # a scene that loads may lack owners of boxes
            remove_orphans()
        if self._parameters is not None:
            self.panel.update()

    def _connect_parameters(self):
        from MaskSAMSlicerLib.mrml.volumes import default_volume, is_image

        self._set_parameters(self.logic.getParameterNode())
        if not is_image(self._parameters.inputVolume):
            self._parameters.inputVolume = default_volume()

    def _disconnect_gui(self):
        if self._gui_tag is not None:
            self._parameters.disconnectGui(self._gui_tag)
            self._gui_tag = None
            modified = vtk.vtkCommand.ModifiedEvent
            self.removeObserver(self._parameters, modified, self._on_parameters_modified)

    def _set_parameters(self, parameters):
        self._disconnect_gui()
        self._parameters = parameters
        if parameters is not None:
            self._gui_tag = parameters.connectGui(self.ui)
            modified = vtk.vtkCommand.ModifiedEvent
            self.addObserver(parameters, modified, self._on_parameters_modified)
        if self.panel is not None:
            self.panel.set_parameters(parameters)

    def _on_parameters_modified(self, _caller=None, _event=None):
        self.panel.update()


class MaskSAMSlicerLogic(ScriptedLoadableModuleLogic):
    """The logic for scripts.

    Args:
        segmentation: logic that runs models; None to create one with its own worker.

    Example:
        >>> logic = slicer.util.getModuleLogic("MaskSAMSlicer")
        >>> segmentation = logic.segment(volumeNode)  # a whole head
        >>> segmentation = logic.segment(volumeNode, model="hippocampus", roiNode=roi)
    """

    def __init__(self, segmentation=None):
        ScriptedLoadableModuleLogic.__init__(self)
        from MaskSAMSlicerLib.logic import SegmentationLogic

        self.segmentation = segmentation or SegmentationLogic()

    def getParameterNode(self):
        """Return the wrapper of the scene's parameter node."""
        from MaskSAMSlicerLib.parameters import Parameters

        return Parameters(super().getParameterNode())

    def segment(self, volumeNode, **options):
        """Segment a volume and wait for the result.

        Args:
            volumeNode: the volume.
            options: see ``SegmentationLogic.segment`` (model, roiNode, boxNodes, segmentationNode,
                device, rule, progress, overwrite).

        Returns:
            The segmentation node.
        """
        return self.segmentation.segment(volumeNode, **options)

    def update(self, segmentationNode, **options):
        """Segment again from changed boxes and wait for the result.

        Args:
            segmentationNode: result of an earlier run.
            options: see ``SegmentationLogic.update`` (boxNodes, overwrite, progress).

        Returns:
            The segmentation node.
        """
        return self.segmentation.update(segmentationNode, **options)

    def close(self):
        """End the worker."""
        self.segmentation.close()


class MaskSAMSlicerTest(ScriptedLoadableModuleTest):
    """Self-test: a run on a synthetic head."""

    def setUp(self):
        """Clear the scene."""
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        """Run all tests."""
        self.setUp()
        self.test_segments_are_named_like_the_classes_of_the_model()

    def test_segments_are_named_like_the_classes_of_the_model(self):
        """Segment a synthetic volume with a bundled model."""
        import numpy as np

        from MaskSAMSlicerLib import installer

        missing = installer.missing()
        if missing:  # the machines that build Slicer's extensions lack the packages
            self.delayDisplay(_("Not run because packages are missing: {0}").format(missing))
            return
        self.delayDisplay(_("Segmenting a synthetic volume"))
        rng = np.random.default_rng(0)
        voxels = rng.normal(300, 30, (36, 52, 38)).astype(np.float32)
        k, j, i = np.ogrid[:36, :52, :38]
        voxels[((k - 18) / 7) ** 2 + ((j - 26) / 14) ** 2 + ((i - 19) / 8) ** 2 < 1] += 300
        volume = slicer.util.addVolumeFromArray(voxels, np.eye(4), "synthetic")
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
