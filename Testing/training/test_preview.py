"""Contact sheet of training windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from MaskSAMCore.training.preview import contact_sheet


def test_outlines_lie_on_the_border_inside_a_class(tmp_path: Path):
    labels = torch.zeros(8, 20, 20, dtype=torch.long)
    labels[:, 5:15, 5:15] = 1
    contact_sheet([(torch.rand(1, 8, 20, 20), labels)], 1, 1, "SAR", tmp_path / "a.png")
    sheet = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.png"))).astype(int)
    # A voxel has 2 x 2 pixels. The outlined slices are on the right, the axial one on top.
    axial = sheet[:40, -40:]
    colored = (axial.max(-1) - axial.min(-1)) > 60
    expected = np.zeros((40, 40), bool)
    expected[10:30, 10:30] = True
    expected[11:29, 11:29] = False
    np.testing.assert_array_equal(colored, expected)
