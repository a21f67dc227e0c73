"""Stand-in for Slicer's Segment Editor, which only chooses its parameter node on entry."""

import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleWidget

_CLASS, _TAG = "vtkMRMLSegmentEditorNode", "SegmentEditor"


class SegmentEditor(ScriptedLoadableModule):
    """The module's metadata."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "Segment Editor"


class SegmentEditorWidget(ScriptedLoadableModuleWidget):
    """Panel without tools.

    Attributes:
        parameters: node with the edited segmentation and its source volume; None before the first
            entry.
    """

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        self.parameters = None

    def enter(self):
        """Choose the scene's singleton node, and a new segmentation if it has none."""
        scene = slicer.mrmlScene
        self.parameters = scene.GetSingletonNode(_TAG, _CLASS)
        if self.parameters is None:
            node = scene.CreateNodeByClass(_CLASS)
            node.UnRegister(None)
            node.SetSingletonTag(_TAG)
            self.parameters = scene.AddNode(node)
        if self.parameters.GetSegmentationNode() is None:
            segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
            self.parameters.SetAndObserveSegmentationNode(segmentation)
