"""The panel's settings, kept in the scene and saved with it."""

from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import parameterNodeWrapper

from MaskSAMSlicerLib.model_catalog import DEFAULT_MODEL


@parameterNodeWrapper
class Parameters:
    """Settings of the next run.

    Attributes:
        inputVolume: volume to segment.
        model: name of the model in the catalog.
        frames: "shown" or "all": frames of a sequence to segment.
        roi: part to segment; None for the whole volume.
        outputSegmentation: segmentation to write to; None for a new one.
        rule: "new" for a new segmentation if the output has segments already, else "replace" or
            "add", see ``segments.write_segments``.
        device: "auto", "cpu", "cuda" or "mps".
        boxSegmentation: latest result; its boxes are shown unless the output is another result of
            the same model and volume.
        boxLive: segment again whenever the user has dragged a box.
        boxOverwrite: let classes with a changed box take voxels from other classes.
        boxModel: name of the model whose default was last put into `boxOverwrite`.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    model: str = DEFAULT_MODEL
    frames: str = "shown"
    roi: vtkMRMLMarkupsROINode
    outputSegmentation: vtkMRMLSegmentationNode
    rule: str = "new"
    device: str = "auto"
    boxSegmentation: vtkMRMLSegmentationNode
    boxLive: bool = False
    boxOverwrite: bool = False
    boxModel: str = ""
