"""Thumbnails of the samples in the module Sample Data, from the results of ``masksam demo``.

    masksam demo -o masksam-demo
    python -m Testing.benchmarks.thumbnails masksam-demo

Each is a coronal slice of the head with the segments of the sample's model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from Testing import host
from Testing.helpers.paths import ROOT

ICONS = ROOT / "MaskSAMSlicer" / "Resources" / "Icons"
# Width and height in pixels, as Slicer's module template requires.
SIZE = (280, 260)
# Result file, width of the field of view in mm, and its center in RAS mm, for each sample.
SAMPLES = {
    "MaskSAMBrain": ("brain.seg.nrrd", 165.0, (0.0, -18.0, 8.0)),
    "MaskSAMHippocampus": ("hippocampi.seg.nrrd", 120.0, (0.0, -20.0, -12.0)),
}


def main() -> None:
    """Render and write all thumbnails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of masksam demo")
    folder = parser.parse_args().folder
    host.start()
    import slicer

    volume = slicer.util.loadVolume(str(folder / "mni152_t1.nii.gz"))
    view = host.open_views(SIZE)["Green"]
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    for name, (result, width, center) in SAMPLES.items():
        segmentation = slicer.util.loadSegmentation(str(folder / result))
        mode = slicer.vtkMRMLSliceNode.CenteredJumpSlice
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *center, mode)
        view.node.SetFieldOfView(width, width * SIZE[1] / SIZE[0], 1)
        picture = Image.fromarray(view.image())
        file = ICONS / f"{name}.png"
        picture.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
        print(f"{file}: {file.stat().st_size} bytes")
        slicer.mrmlScene.RemoveNode(segmentation)
    host.close_views()


if __name__ == "__main__":
    main()
