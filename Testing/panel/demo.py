"""The second half of ``make demo``: a person's clicks on the real panel, without Slicer.

It loads the head of ``masksam demo``, clicks Segment for the whole head and then, with the model of
the hippocampus, for each of two ROIs, moves a box and clicks Update, and saves the scene and
pictures of the window.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from Testing import host
from Testing.panel.fixtures import Person
from Testing.panel.pictures import save_light_and_dark
from Testing.slicer.module_tools import MODULE, ROOT

SIDES = ("left", "right")
SAMPLES = ROOT / "Resources/SampleData"


def main() -> None:
    """Drive the panel and save what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of masksam demo; the results go there too")
    folder = parser.parse_args().folder.resolve()
    head = folder / "mni152_t1.nii.gz"
    if not head.is_file():
        sys.exit(f"demo: {head} is missing: run 'masksam demo -o {folder}' first")
    began = time.perf_counter()
    application = host.start()
    import slicer

    host.load_module(MODULE)
    window = host.open_window("MaskSAMSlicer", (1500, 1040))
    panel = slicer.modules.MaskSAMSlicerWidget
    try:
        volume = slicer.util.loadVolume(str(head), {"name": "MNI152 T1"})
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        person = Person(panel)
        person.choose_volume(volume)
        segment(person)
        show(panel, 1.0)
        save_light_and_dark(window, folder)
        hide_results()
        person.choose_model("hippocampus")
        for side in SIDES:
            roi = slicer.util.loadMarkups(str(SAMPLES / f"hippocampus-{side}.mrk.json"))
            panel.ui.roiSelector.setCurrentNode(roi)
            segment(person)
            roi.GetDisplayNode().SetVisibility(False)
        show(panel, 0.6)
        slicer.util.saveScene(str(folder / "scene.mrb"))
        move_a_box(application, person)
        window.save(folder / "boxes.png")
    finally:
        panel.cleanup()
        window.close()
    if host.errors or host.messages.texts("error"):
        sys.exit(f"demo: {[*host.errors, *host.messages.texts('error')]}")
    print(
        f"{folder}: scene.mrb (open it in 3D Slicer), panel.png, panel-dark.png, boxes.png;"
        f" {time.perf_counter() - began:.1f} s"
    )


def segment(person: Person) -> None:
    """Click Segment, wait, click Show in 3D."""
    person.click(person.ui.segmentButton)
    person.wait()
    print(person.status)
    if person.ui.show3DButton.enabled and not person.ui.show3DButton.checked:
        person.click(person.ui.show3DButton)


def hide_results() -> None:
    """Make room for the next ones."""
    import slicer

    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        node.GetDisplayNode().SetVisibility(False)


def move_a_box(application, person: Person) -> None:
    """Show the boxes of the last run, move one by the mouse in the axial view, click Update."""
    import numpy as np
    import slicer

    for section in (person.ui.inputsButton, person.ui.modelButton, person.ui.outputButton):
        section.collapsed = True
    person.click(person.ui.showBoxesButton)
    box = person.widget.panel.boxes.boxes.nodes[0]
    center = [0.0, 0.0, 0.0]
    box.GetCenterWorld(center)
    centered = slicer.vtkMRMLSliceNode.CenteredJumpSlice
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *center, centered)
    application.processEvents()
    view = host.open_views()["Red"]
    view.image()
    to_pixel = np.linalg.inv(slicer.util.arrayFromVTKMatrix(view.node.GetXYToRAS()))
    x, y = ((to_pixel @ [*center, 1])[:2]).round().astype(int).tolist()
    view.drag((x, y), (x + 6, y + 12))
    person.click(person.ui.updateButton)
    person.wait()
    print(person.status)
    application.processEvents()


def show(panel, part: float) -> None:
    """Go to the first class, with a part of the field of view, and look at the surfaces from the
    front."""
    import slicer

    panel.ui.resultsTable.cellClicked.emit(0, 0)
    slicer.app.processEvents()
    view = host.open_views()["1"]
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        node.SetFieldOfView(*(value * part for value in node.GetFieldOfView()[:2]), 1)
    view.node.SetBoxVisible(False)
    view.node.SetAxisLabelsVisible(False)
    camera = view.renderer.GetActiveCamera()
    camera.SetFocalPoint(0, -20, -15)
    camera.SetPosition(120, 160, 60)
    camera.SetViewUp(0, 0, 1)
    view.renderer.ResetCamera()
    camera.Zoom(0.95)


if __name__ == "__main__":
    main()
