"""B-spline transforms from windows to labelmaps."""

from __future__ import annotations

import numpy as np
import torch

from MaskSAMCore.data.synthesis.deformation import BSplineTransform, spline_basis
from Testing.data.synthesis.helpers import rng, uncropped_labelmap
from Testing.helpers.labelled_heads import head


def test_splines_reproduce_linear_functions():
    positions = torch.linspace(0, 60, 13)
    basis = spline_basis(positions, 20.0, 60.0)
    control = torch.arange(-1.0, 5.0) * 20
    torch.testing.assert_close(basis @ control, positions, atol=1e-4, rtol=0)
    torch.testing.assert_close(basis.sum(1), torch.ones(13))


def test_the_affine_map_acts_about_the_centre_of_the_window():
    labelmap = uncropped_labelmap(head())
    rotation = torch.tensor([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    centre = [length / 2 for length in labelmap.extent]
    extent = (20.0, 20.0, 20.0)
    transform = BSplineTransform.random(rotation, centre, extent, 32.0, 0.0, rng(0))
    found = transform.sample(labelmap, (20, 20, 20), (1.0, 1.0, 1.0)).numpy()
    window = labelmap.indices.numpy()[5:25, 8:28, 10:30]
    np.testing.assert_array_equal(found, np.flip(window.transpose(0, 2, 1), 2))
