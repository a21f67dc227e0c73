"""The second half of ``make demo``: a user's clicks in the real panel, without Slicer.

The head of ``masksam demo`` is segmented, first as a whole and then, with the model of the
hippocampus, inside each of two ROIs. One box is moved and its class segmented again. The scene and
pictures of the window are saved.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from Testing import host
from Testing.panel.helpers import User, drag, segmentations
from Testing.panel.pictures import save_light_and_dark, save_narrow
from Testing.slicer.helpers import MODULE, ROOT

SIDES = ("left", "right")
SAMPLES = ROOT / "Resources/SampleData"


def main() -> None:
    """Operate the panel and save the scene and pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", type=Path, help="folder of masksam demo; the results are saved there too"
    )
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
        user = User(panel)
        user.choose_volume(volume)
        segment(user)
        show(panel, 1.0)
        save_light_and_dark(window, folder)
        save_narrow(window, folder)
        hide_results()
        user.choose_model("hippocampus")
        for side in SIDES:
            roi = slicer.util.loadMarkups(str(SAMPLES / f"hippocampus-{side}.mrk.json"))
            panel.ui.roiSelector.setCurrentNode(roi)
            segment(user)
            roi.GetDisplayNode().SetVisibility(False)
        show(panel, 0.6)
        slicer.util.saveScene(str(folder / "scene.mrb"))
        move_a_box(application, user)
        window.save(folder / "boxes.png")
    finally:
        panel.cleanup()
        window.close()
    if host.errors or host.messages.texts("error"):
        sys.exit(f"demo: {[*host.errors, *host.messages.texts('error')]}")
    print(
        f"{folder}: scene.mrb (open it in 3D Slicer), panel.png, panel-dark.png,"
        f" panel-narrow.png, boxes.png; {time.perf_counter() - began:.1f} s"
    )


def segment(user: User) -> None:
    """Segment the chosen volume and show the result in 3D."""
    user.click(user.ui.segmentButton)
    user.wait()
    print(user.status)
    if user.ui.show3DButton.enabled and not user.ui.show3DButton.checked:
        user.click(user.ui.show3DButton)


def hide_results() -> None:
    """Hide all segmentations."""
    import slicer

    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        node.GetDisplayNode().SetVisibility(False)


def move_a_box(application, user: User) -> None:
    """Show the boxes of the last run, drag one in the axial view, click Segment again."""
    import slicer

    from MaskSAMSlicerLib.mrml.box_nodes import boxes_of

    for section in (
        user.ui.inputsButton,
        user.ui.modelButton,
        user.ui.outputButton,
        user.ui.advancedButton,
    ):
        section.collapsed = True
    if not user.ui.showBoxesButton.checked:  # a click on a class that may be wrong shows them too
        user.click(user.ui.showBoxesButton)
    (box, *_others) = boxes_of(segmentations(slicer.mrmlScene)[-1])
    drag(host.open_views(), box, 6, 12)
    user.segment_again()
    print(user.status)
    application.processEvents()


def show(panel, part: float) -> None:
    """Jump to the first class and show the surfaces from the front.

    Args:
        panel: the module's widget.
        part: fraction of the field of view of slice views to show.
    """
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
