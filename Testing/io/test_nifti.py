"""NIfTI files: qform and sform are kept, other programs read the written files, and any header is
read or refused."""

from __future__ import annotations

import gzip
import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.arrayproxy import ArrayProxy
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from MaskSAMCore.geometry import Box, Volume, crop
from MaskSAMCore.io import read_volume, write_labelmap, write_probabilities, write_volume
from Testing.io.helpers import LABELS, labelmap_on, matrices, oblique_volume, read_or_refused
from Testing.io.nifti_cases import MATRIX, MIRRORED, SPACING, file_content, sheared, shifted

FORMS: dict[str, dict[str, Any]] = {
    "equal": {},
    "sform moved": {"codes": (1, 2), "sform": shifted(20)},
    "sform mirrored": {"codes": (1, 4), "sform": MIRRORED},
    "qform moved": {"codes": (2, 1), "qform": shifted(20)},
    "sform sheared": {"codes": (1, 2), "sform": sheared(0.05)},
    "sform alone, slightly sheared": {
        "codes": (0, 3),
        "qform": np.diag([*SPACING, 1]),
        "sform": sheared(0.001),
    },
    "sform alone, other pixdim": {
        "codes": (0, 1),
        "qform": np.diag([*SPACING, 1]),
        "pixdim3": 2.0,
    },
    "qform alone": {"codes": (3, 0)},
    "neither": {"codes": (0, 0), "qform": np.diag([*SPACING, 1])},
}


@pytest.mark.parametrize("forms", FORMS)
def test_a_labelmap_repeats_both_forms_of_its_image(tmp_path: Path, forms: str) -> None:
    (tmp_path / "image.nii").write_bytes(file_content(**FORMS[forms]))
    volume = read_volume(tmp_path / "image.nii")
    write_labelmap(labelmap_on(volume), volume, tmp_path / "labels.nii.gz", LABELS)
    image = nibabel.load(tmp_path / "image.nii").header
    labels = nibabel.load(tmp_path / "labels.nii.gz").header
    for field in ("qform_code", "sform_code"):
        assert labels[field] == image[field]
    np.testing.assert_allclose(labels["pixdim"][1:4], image["pixdim"][1:4], rtol=1e-6)
    np.testing.assert_allclose(labels.get_best_affine(), image.get_best_affine(), atol=1e-4)
    if image["qform_code"]:
        np.testing.assert_allclose(labels.get_qform(), image.get_qform(), atol=1e-4)
    again = read_volume(tmp_path / "labels.nii.gz")
    assert again.same_grid(volume)
    assert np.array_equal(again.array, labelmap_on(volume))


def test_a_part_of_a_volume_gets_its_own_forms(tmp_path: Path) -> None:
    (tmp_path / "image.nii").write_bytes(file_content(codes=(1, 2), sform=shifted(20)))
    part = crop(read_volume(tmp_path / "image.nii"), Box("", (2, 3, 4), (9, 8, 7)))
    write_volume(part, tmp_path / "part.nii.gz")
    header = nibabel.load(tmp_path / "part.nii.gz").header
    assert (header["qform_code"], header["sform_code"]) == (1, 1)
    np.testing.assert_allclose(header.get_sform(), part.ijk_to_ras, atol=1e-4)
    np.testing.assert_allclose(header.get_qform(), part.ijk_to_ras, atol=1e-4)


def test_a_volume_moved_by_its_matrix_gets_its_own_forms(tmp_path: Path) -> None:
    (tmp_path / "image.nii").write_bytes(file_content(codes=(1, 2), sform=shifted(20)))
    moved = replace(read_volume(tmp_path / "image.nii"), ijk_to_ras=shifted(-7))
    write_volume(moved, tmp_path / "moved.nii")
    assert read_volume(tmp_path / "moved.nii").same_grid(moved)
    assert nibabel.load(tmp_path / "moved.nii").header["sform_code"] == 1


def test_lengths_in_metres_are_written_in_mm(tmp_path: Path) -> None:
    metres = np.diag([1e-3, 1e-3, 1e-3, 1]) @ MATRIX
    content = file_content(qform=metres, sform=metres, codes=(1, 2), xyzt_units=1)
    (tmp_path / "image.nii").write_bytes(content)
    write_volume(read_volume(tmp_path / "image.nii"), tmp_path / "again.nii")
    header = nibabel.load(tmp_path / "again.nii").header
    assert header.get_xyzt_units()[0] == "mm"
    assert header["sform_code"] == 2
    np.testing.assert_allclose(header.get_sform(), MATRIX, atol=1e-4)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "int32", "int64", "float32", "float64"]
)
def test_simpleitk_reads_the_same_volume(tmp_path: Path, dtype: str, mirrored: bool) -> None:
    volume = oblique_volume(mirrored)
    volume = replace(volume, array=(volume.array * 20 + 100).astype(dtype))
    write_volume(volume, tmp_path / "a.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    array = sitk.GetArrayFromImage(image)
    assert array.dtype == dtype
    assert np.array_equal(array, volume.array)
    corner = [float(size - 1) for size in volume.shape[::-1]]
    lps = image.TransformContinuousIndexToPhysicalPoint(corner)
    ras = volume.ijk_to_ras @ [*corner, 1]
    np.testing.assert_allclose(lps, [-ras[0], -ras[1], ras[2]], atol=1e-4)


def test_simpleitk_reads_the_probabilities_of_every_class(tmp_path: Path) -> None:
    volume = oblique_volume()
    rng = np.random.default_rng(0)
    probabilities = rng.random((4, *volume.shape), dtype=np.float32)
    write_probabilities(probabilities, volume, tmp_path / "p.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "p.nii.gz"))
    assert np.array_equal(np.moveaxis(sitk.GetArrayFromImage(image), -1, 0), probabilities)


def test_more_voxels_along_an_axis_than_nifti1_counts_make_nifti2(tmp_path: Path) -> None:
    volume = Volume(np.arange(40000, dtype=np.uint16).reshape(1, 1, -1), np.eye(4))
    write_volume(volume, tmp_path / "row.nii.gz")
    again = read_volume(tmp_path / "row.nii.gz")
    assert np.array_equal(again.array, volume.array)
    assert again.same_grid(volume)


def test_reading_leaves_voxels_that_can_be_changed(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(file_content(endianness=">"))
    array = read_volume(tmp_path / "a.nii").array
    array[0, 0, 0] = 1
    assert array.dtype == np.float32
    assert array.dtype.isnative
    assert array.flags.c_contiguous


@st.composite
def headers(draw: st.DrawFn) -> dict[str, Any]:
    """Return options of ``file_content``; most of them make a valid header."""
    types = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    qform = draw(matrices())
    change = draw(st.sampled_from(["none", "moved", "mirrored", "other", "nan", "zero", "sheared"]))
    sform = {
        "none": qform,
        "moved": shifted(30, qform),
        "mirrored": qform @ np.diag([-1, 1, 1, 1]),
        "other": draw(matrices()),
        "nan": np.full((4, 4), np.nan),
        "zero": np.zeros((4, 4)),
        "sheared": sheared(draw(st.sampled_from([5e-5, 1e-3, 0.05])), qform),
    }[change]
    options: dict[str, Any] = {
        "array": (rng.normal(size=shape) * 50).clip(0).astype(draw(st.sampled_from(types))),
        "kind": draw(st.sampled_from([Nifti1Header, Nifti2Header])),
        "endianness": draw(st.sampled_from("<>")),
        "qform": qform,
        "sform": sform,
        "codes": draw(st.tuples(*[st.sampled_from([0, 1, 1, 2, 4])] * 2)),
        "xyzt_units": draw(st.sampled_from([0, 2, 10])),
        "scl_slope": draw(st.sampled_from([1, 1, 0, np.nan, 0.5, -2])),
        "scl_inter": draw(st.sampled_from([0, 0, 3.5])),
    }
    if draw(st.booleans()):
        options["array"] = options["array"][None]
    return options


def valid_forms(options: dict[str, Any]) -> list[str]:
    """Return the forms, "q" and "s", whose code is above 0; the sform must be invertible, too."""
    usable = {"q": options["codes"][0] > 0, "s": options["codes"][1] > 0}
    sform = options["sform"][:3, :3]
    usable["s"] &= bool(np.isfinite(sform).all() and np.linalg.matrix_rank(sform) == 3)
    return [form for form, valid in usable.items() if valid]


def rounding_decides(options: dict[str, Any]) -> bool:
    """Return whether SimpleITK may consider a different qform and sform equal.

    SimpleITK compares singular vectors, which are equal if one form mirrors the other.
    """
    q, s = options["qform"], options["sform"]
    same_vectors = np.allclose(q[:3, :3] @ q[:3, :3].T, s[:3, :3] @ s[:3, :3].T, atol=1e-3)
    return same_vectors and np.array_equal(q[:, 3], s[:, 3]) and not np.allclose(q, s, atol=1e-3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(options=headers(), compressed=st.booleans(), kept=st.sampled_from([1.0, 1.0, 1.0, 0.9, 0.3]))
def test_any_header_is_read_as_nibabel_reads_it_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any], compressed: bool, kept: float
) -> None:
    path = tmp_path_factory.getbasetemp() / "generated.nii"
    content = file_content(**options)
    data = gzip.compress(content, 1) if compressed else content
    path.write_bytes(data[: int(len(data) * kept)])
    volume = read_or_refused(path)
    if isinstance(volume, str):
        assert str(path) in volume
        forms = valid_forms(options)
        sheared_alone = forms == ["s"] and "sheared" in volume
        assert kept < 1 or (not forms and any(options["codes"])) or sheared_alone
        return
    assert kept == 1
    header = options["kind"].from_fileobj(BytesIO(content))
    header.quaternion_threshold = -1e-6  # rounding affects half turns
    expected = np.asarray(ArrayProxy(BytesIO(content), header)).T.reshape(volume.shape)
    np.testing.assert_allclose(volume.array, expected, rtol=1e-5, atol=1e-5)
    candidates = [header.get_base_affine()]
    if valid_forms(options):
        candidates = [header.get_qform(), header.get_sform()]
    smallest = min(volume.spacing)
    differences = []
    for candidate in candidates:
        # Voxel sizes are taken from pixdim, as in ITK.
        lengths = np.linalg.norm(candidate[:3, :3], axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            candidate[:3, :3] *= header.get_zooms()[:3] / lengths
        differences.append(np.abs(candidate - volume.ijk_to_ras).max())
    assert np.nanmin(differences) < 0.02 * smallest
    target = path.with_name("written.nii")
    write_volume(volume, target, overwrite=True)
    again = read_volume(target)
    assert again.same_grid(volume)
    assert np.array_equal(again.array, volume.array)
    assert volume.orientation is not None
    assert again.orientation is not None
    assert again.orientation.sform_code == volume.orientation.sform_code
    assert again.orientation.qform_code == volume.orientation.qform_code


@settings(max_examples=40, deadline=None)
@given(options=headers())
def test_the_form_that_is_used_is_that_of_simpleitk(
    tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any]
) -> None:
    options |= {"kind": Nifti1Header, "scl_slope": 1, "scl_inter": 0}
    path = tmp_path_factory.getbasetemp() / "rule.nii"
    path.write_bytes(file_content(**options))
    sform_is_damaged = options["codes"][1] and "s" not in valid_forms(options)
    if not valid_forms(options) or sform_is_damaged or rounding_decides(options):
        return
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:  # SimpleITK refuses sheared axes
        return
    volume = read_volume(path)
    corner = [float(size - 1) for size in volume.shape[::-1]]
    lps = image.TransformContinuousIndexToPhysicalPoint([*corner, 0][: image.GetDimension()])
    ras = volume.ijk_to_ras @ [*corner, 1]
    np.testing.assert_allclose(lps[:3], [-ras[0], -ras[1], ras[2]], atol=1e-3)
    assert np.array_equal(sitk.GetArrayFromImage(image), volume.array)


@settings(max_examples=60, deadline=None)
@given(
    position=st.integers(0, 351),
    replacement=st.binary(min_size=1, max_size=8),
    kind=st.sampled_from([Nifti1Header, Nifti2Header]),
)
def test_a_damaged_header_makes_no_traceback(
    tmp_path_factory: pytest.TempPathFactory, position: int, replacement: bytes, kind: Any
) -> None:
    content = bytearray(file_content(kind=kind))
    content[position : position + len(replacement)] = replacement
    path = tmp_path_factory.getbasetemp() / "damaged.nii"
    path.write_bytes(content)
    read_or_refused(path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd"])
@pytest.mark.parametrize("name", [b"caf\xe9", b"n" * 200], ids=["not UTF-8", "long"])
def test_volumes_are_written_and_read_under_any_name(
    tmp_path: Path, suffix: str, name: bytes
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    folder.mkdir()
    path = folder / os.fsdecode(name + suffix.encode())
    volume = oblique_volume()
    write_labelmap(labelmap_on(volume), volume, path, LABELS)
    assert np.array_equal(read_volume(path).array, labelmap_on(volume))
    assert list(folder.iterdir()) == [path]


def test_no_number_of_the_matrix_is_minus_zero(tmp_path: Path):
    left = np.diag([-1.0, 1.0, 1.0, 1.0])
    (tmp_path / "a.nii").write_bytes(file_content(qform=left, codes=(1, 0), quatern_b=-0.0))
    matrix = read_volume(tmp_path / "a.nii").ijk_to_ras
    np.testing.assert_array_equal(matrix, left)
    assert not np.signbit(matrix[matrix == 0]).any()
