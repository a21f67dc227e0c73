"""The scripted module MaskSAM: metadata, widget, logic for scripts, and self-test."""

import sys
import time

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
            "Segments 29 structures of the brain, cerebrospinal fluid and white matter lesions in"
            " MR images of any contrast, the head and body of the hippocampus in T1-weighted MR,"
            " and any structure inside boxes that you draw, as"
            " named, editable segments. An independent implementation of MaskSAM, a Segment"
            " Anything Model that prompts itself. For research only, not for diagnosis. Images"
            " never leave this computer."
        )
        self.parent.acknowledgementText = _(
            "Method: B. Xie et al., ICCV 2025 (arXiv:2403.14103), who had no part in this"
            " implementation. The model 'brain' (Apache-2.0) was trained on labelmaps of SynthSeg"
            " (B. Billot et al., 2023), the model 'hippocampus' (CC-BY-SA-4.0) on the Medical"
            " Segmentation Decathlon (Task04, CC-BY-SA-4.0). The head in Sample Data is the MNI152"
            " template (V. Fonov et al., 2009; McConnell Brain Imaging Centre, McGill University)."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)
        slicer.app.connect("startupCompleted()", loadTerminology)


def loadTerminology():
    """Add the codes of the bundled models to Slicer's terminology selector."""
    # Imported here because Slicer loads this file before it registers the nodes of Markups.
    from MaskSAMSlicerLib.mrml.terminology import load_terminology

    load_terminology()


def registerSampleData():
    """Add a sample for each bundled model to the module Sample Data."""
    from MaskSAMSlicerLib.sample_data import register_samples

    register_samples()


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
        """Build the panel without importing packages that may be missing."""
        # Imported here because Slicer loads this file before it registers the nodes of Markups.
        from MaskSAMSlicerLib.panel.panel import Panel

        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/MaskSAMSlicer.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = MaskSAMSlicerLogic()
        self.panel = Panel(self.ui, self.logic.segmentation, self.logic.learning)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self._on_scene_start_close)
        self.addObserver(scene, scene.EndCloseEvent, self._on_scene_changed)
        for event in (scene.EndImportEvent, scene.EndUndoEvent, scene.EndRedoEvent):
            self.addObserver(scene, event, self._on_scene_changed)
        self.addObserver(scene, scene.NodeAddedEvent, self._on_node_added)
        self.addObserver(scene, scene.NodeRemovedEvent, self._on_node_removed)
        slicer.app.connect("aboutToQuit()", self._on_quit)
        self._connect_parameters()

    def cleanup(self):
        """Close the panel and end the workers, before Slicer quits or reloads the module."""
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

        The panel keeps the parameter node, because a run may end while another module is open.
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

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node_added(self, _caller, _event, node):
        # It may be the clone of a box, which gets its attributes only after this event.
        if node.IsA("vtkMRMLMarkupsROINode"):
            self._request_update()

    def _on_node_removed(self, _caller, _event):
        self._request_update()

    def _request_update(self):
        # The update is deferred, so that many events cause only one. Orphaned boxes are removed
        # then, too, because the code that removes a segmentation may be iterating over the scene.
        if not self._update_pending:
            self._update_pending = True
            qt.QTimer.singleShot(0, self._update_later)

    def _update_later(self):
        from MaskSAMSlicerLib.mrml.box_nodes import adopt_clones, remove_orphans

        self._update_pending = False
        if not slicer.mrmlScene.IsBatchProcessing():  # boxes may load before their owners
            adopt_clones()
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
            node, modified = self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent
            self.removeObserver(node, modified, self._on_parameters_modified)

    def _set_parameters(self, parameters):
        self._disconnect_gui()
        self._parameters = parameters
        if parameters is not None:
            self._gui_tag = parameters.connectGui(self.ui)
            # The node is observed rather than its wrapper, because Slicer's mixin keeps all objects
            # that it has observed, and opening the module or closing a scene makes a new wrapper.
            node, modified = parameters.parameterNode, vtk.vtkCommand.ModifiedEvent
            self.addObserver(node, modified, self._on_parameters_modified)
        if self.panel is not None:
            self.panel.set_parameters(parameters)

    def _on_parameters_modified(self, _caller=None, _event=None):
        self.panel.update()


class MaskSAMSlicerLogic(ScriptedLoadableModuleLogic):
    """The logic for scripts.

    Args:
        segmentation: logic that runs models; None to create one with its own worker.
        learning: logic that adapts models; None to create one with its own worker.

    Example:
        >>> logic = slicer.util.getModuleLogic("MaskSAMSlicer")
        >>> segmentation = logic.segment(volumeNode)  # a whole head
        >>> segmentation = logic.segment(volumeNode, model="hippocampus", roiNode=roi)
        >>> pairs = [(volumeNode, segmentation)]
        >>> model = logic.adapt(pairs, model="hippocampus", name="hippocampus-ours", minutes=15)
    """

    def __init__(self, segmentation=None, learning=None):
        ScriptedLoadableModuleLogic.__init__(self)
        from MaskSAMSlicerLib.learning import LearningLogic
        from MaskSAMSlicerLib.logic import SegmentationLogic

        self.segmentation = segmentation or SegmentationLogic()
        self.learning = learning or LearningLogic()

    def getParameterNode(self):
        """Return the wrapper of the scene's parameter node."""
        from MaskSAMSlicerLib.parameters import Parameters

        return Parameters(super().getParameterNode())

    def segment(self, volumeNode, **options):
        """Segment a volume and wait for the result.

        Args:
            volumeNode: the volume.
            options: see ``SegmentationLogic.segment`` (model, roiNode, boxNodes, segmentationNode,
                device, rule, progress, overwrite, resample, allFrames).

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

    def exportDicom(self, segmentationNode, path, **options):
        """Write a result as a DICOM segmentation and wait.

        Args:
            segmentationNode: result of an earlier run on a volume that was loaded from DICOM.
            path: file to write.
            options: see ``SegmentationLogic.export_dicom`` (report, folder).

        Returns:
            The path.
        """
        return self.segmentation.export_dicom(segmentationNode, path, **options)

    def adapt(self, corrections, **options):
        """Adapt a model to corrected segmentations and wait.

        Args:
            corrections: pairs of a volume and its corrected segmentation.
            options: see ``LearningLogic.adapt`` (model, name, minutes, folder, checked, device,
                resume, progress).

        Returns:
            The name of the new model.
        """
        return self.learning.adapt(corrections, **options)

    def close(self):
        """End the workers."""
        self.segmentation.close()
        self.learning.close()


class MaskSAMSlicerTest(ScriptedLoadableModuleTest):
    """Self-test in the application: packages, scripts, and the panel on a synthetic image."""

    def setUp(self):
        """Clear the scene."""
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        """Run all tests, or only the first one if packages are missing."""
        from MaskSAMSlicerLib import installer

        tests = [self.test_the_panel_names_missing_packages]
        if not installer.missing():  # the machines that build Slicer's extensions lack them
            tests += [
                self.test_a_script_segments_a_volume,
                self.test_the_panel_lists_what_a_run_found,
                self.test_a_cancelled_run_changes_nothing,
                self.test_a_moved_box_changes_its_segment_and_can_be_undone,
            ]
        for test in tests:
            self.setUp()
            self.delayDisplay(test.__doc__)
            test()
        self.setUp()
        passed = _("Passed: {count} of 5 tests.").format(count=len(tests))
        if len(tests) == 1:
            passed += " " + _("The others need the missing Python packages.")
        self.delayDisplay(passed)

    def test_the_panel_names_missing_packages(self):
        """The panel names missing packages, and Segment waits for them."""
        from MaskSAMSlicerLib import installer

        ui, missing = self._open_panel(self._volume()).ui, installer.missing()
        self.assertEqual(not ui.installFrame.isHidden(), bool(missing))
        self.assertEqual(ui.segmentButton.enabled, not missing, ui.segmentButton.toolTip)
        for requirement in missing:
            self.assertIn(requirement, ui.installLabel.text)

    def test_a_script_segments_a_volume(self):
        """A script segments a volume with a worker of its own."""
        volume = self._volume()
        logic = MaskSAMSlicerLogic()
        try:
            node = logic.segment(volume, model="hippocampus")
        finally:
            logic.close()
        self.assertEqual(node.GetTransformNodeID(), volume.GetTransformNodeID())
        self._check_names(node)

    def test_the_panel_lists_what_a_run_found(self):
        """Segment in the panel makes a segmentation, and lists its classes."""
        widget = self._open_panel(self._volume())
        (node,) = self._segment(widget)
        segmentation, table = node.GetSegmentation(), widget.ui.resultsTable
        self._check_names(node)
        self.assertEqual(table.rowCount, segmentation.GetNumberOfSegments())
        self.assertFalse(widget.ui.resultsButton.isHidden())
        self.assertEqual(widget.ui.outputSelector.currentNodeID, node.GetID())

    def test_a_cancelled_run_changes_nothing(self):
        """Cancel ends a run and changes nothing."""
        widget = self._open_panel(self._volume())
        nodes = slicer.mrmlScene.GetNumberOfNodes()
        widget.ui.segmentButton.click()
        self._wait(lambda: widget.ui.progressBar.maximum > 0 or not widget.panel.busy)
        self.assertTrue(widget.panel.busy, widget.ui.statusLabel.text)
        widget.ui.segmentButton.click()
        self._wait(lambda: not widget.panel.busy)
        self.assertEqual(widget.logic.segmentation.run.error.kind, "cancelled")
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)
        self._segment(widget)

    def test_a_moved_box_changes_its_segment_and_can_be_undone(self):
        """A smaller box changes the segment of its class; Undo restores it."""
        widget = self._open_panel(self._volume())
        ui = widget.ui
        (node,) = self._segment(widget)
        before = self._voxels(node)
        ui.showBoxesButton.click()
        box = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLMarkupsROINode")
        self.assertEqual(box.GetName(), node.GetSegmentation().GetNthSegment(0).GetName())
        box.SetSize(*(0.5 * size for size in box.GetSize()))
        self.assertTrue(ui.updateButton.enabled)
        ui.updateButton.click()
        self._wait(lambda: not widget.panel.busy)
        self.assertNotEqual(self._voxels(node), before, ui.statusLabel.text)
        ui.undoButton.click()
        self.assertEqual(self._voxels(node), before)

    def _volume(self):
        """Add an image of a bright ellipsoid."""
        import numpy as np

        voxels = np.random.default_rng(0).normal(300, 30, (36, 52, 38)).astype(np.float32)
        k, j, i = np.ogrid[:36, :52, :38]
        voxels[((k - 18) / 5) ** 2 + ((j - 26) / 16) ** 2 + ((i - 19) / 6) ** 2 < 1] += 300
        return slicer.util.addVolumeFromArray(voxels, np.eye(4), "synthetic")

    def _open_panel(self, volume):
        """Open the module, choose a volume and the model, and return the module's widget."""
        if slicer.util.mainWindow() is not None:
            slicer.util.selectModule("MaskSAMSlicer")
        widget = slicer.util.getModuleWidget("MaskSAMSlicer")
        widget.enter()
        parameters = widget.logic.getParameterNode()
        parameters.inputVolume, parameters.model = volume, "hippocampus"
        slicer.app.processEvents()
        return widget

    def _segment(self, widget):
        """Press Segment, wait, and return all segmentations."""
        self.assertTrue(widget.ui.segmentButton.enabled, widget.ui.segmentButton.toolTip)
        widget.ui.segmentButton.click()
        self._wait(lambda: not widget.panel.busy)
        self.assertIsNone(widget.logic.segmentation.run.error)
        return slicer.util.getNodesByClass("vtkMRMLSegmentationNode")

    def _wait(self, condition):
        """Process events until a condition holds."""
        end = time.monotonic() + 300
        while not condition():
            self.assertLess(time.monotonic(), end, "the run did not end within 300 s")
            slicer.app.processEvents()
            time.sleep(0.01)

    def _check_names(self, node):
        segmentation = node.GetSegmentation()
        count = segmentation.GetNumberOfSegments()
        names = {segmentation.GetNthSegment(number).GetName() for number in range(count)}
        self.assertTrue(names and names <= {"Anterior", "Posterior"}, names)

    def _voxels(self, node):
        """Return the number of voxels of the first segment."""
        segment_id = node.GetSegmentation().GetNthSegmentID(0)
        return int((slicer.util.arrayFromSegmentInternalBinaryLabelmap(node, segment_id) > 0).sum())
