"""The panel's choices, kept in the scene and saved with it."""

from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import parameterNodeWrapper

from MaskSAMSlicerLib.model_catalog import DEFAULT_MODEL


@parameterNodeWrapper
class Parameters:
    """What the next run does.

    Attributes:
        inputVolume: the image.
        model: name of the model in the catalog.
        roi: the part to segment; none for the whole volume.
        outputSegmentation: where segments go; none for a new one.
        rule: "replace" or "add" (see ``segments.write_segments``).
        device: "auto", "cpu", "cuda" or "mps".
        boxSegmentation: the result whose boxes are shown.
        boxLive: whether a dragged box is used as soon as the drag ends.
        boxOverwrite: whether a class with a changed box may take voxels of the others.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    model: str = DEFAULT_MODEL
    roi: vtkMRMLMarkupsROINode
    outputSegmentation: vtkMRMLSegmentationNode
    rule: str = "replace"
    device: str = "auto"
    boxSegmentation: vtkMRMLSegmentationNode
    boxLive: bool = False
    boxOverwrite: bool = False
