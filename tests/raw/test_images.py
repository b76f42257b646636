"""Any format gives the same values at the same place in the world; what holds no image is refused."""

import gzip
from collections.abc import Callable
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

from custom_transforms.checks import HAS_ORIENTATION, InputError
from custom_transforms.raw.images import read_echoes, read_image

SHAPE = (6, 5, 4)


def random_image(*extra: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(*SHAPE, *extra)).astype(np.float32)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> str:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return str(path)


def save_by_itk(path: Path, array: np.ndarray, affine: np.ndarray) -> str:
    """Write (X, Y, Z) or (X, Y, Z, N) with ITK, whose world is LPS+."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = itk.image_from_array(np.ascontiguousarray(array.transpose()))
    extra = array.ndim - 3
    direction = np.eye(array.ndim)
    direction[:3, :3] = lps[:3, :3] / spacing
    image.SetDirection(itk.matrix_from_array(direction))
    image.SetSpacing([*spacing.tolist(), *[1.0] * extra])
    image.SetOrigin([*lps[:3, 3].tolist(), *[0.0] * extra])
    itk.imwrite(image, str(path))
    return str(path)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("echoes", [0, 3])
def test_itk_formats_agree_with_nifti(tmp_path: Path, oblique_affine: np.ndarray, ending: str, echoes: int) -> None:
    array = random_image(echoes) if echoes else random_image()
    nifti = read_image("magnitude", save(tmp_path / "image.nii.gz", array, oblique_affine))
    other = read_image("magnitude", save_by_itk(tmp_path / f"image{ending}", array, oblique_affine))
    assert np.array_equal(other.values, nifti.values)
    assert np.allclose(other.affine, nifti.affine, atol=1e-5)  # NIfTI keeps single precision
    assert other.has_orientation


def test_the_affine_is_not_that_of_lps(tmp_path: Path, oblique_affine: np.ndarray) -> None:
    """The comparison above would notice a forgotten flip."""
    image = read_image("magnitude", save_by_itk(tmp_path / "image.nrrd", random_image(), oblique_affine))
    flipped = np.diag([-1.0, -1.0, 1.0, 1.0]) @ oblique_affine
    assert not np.allclose(image.affine, flipped, atol=1e-3)


def test_echoes_as_components_of_nrrd(tmp_path: Path) -> None:
    array = random_image(3)
    vector = itk.image_from_array(np.ascontiguousarray(np.moveaxis(array, -1, 0).transpose(3, 2, 1, 0)), is_vector=True)
    itk.imwrite(vector, str(tmp_path / "list.nrrd"))
    assert np.array_equal(read_image("magnitude", str(tmp_path / "list.nrrd")).values, np.moveaxis(array, -1, 0))


def enhanced_dicom(path: Path, array: np.ndarray, affine: np.ndarray) -> str:
    """Write (X, Y, Z) of integers in one DICOM file, a frame a slice."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = EnhancedMRImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID, image.Modality = EnhancedMRImageStorage, generate_uid(), "MR"
    image.Columns, image.Rows, image.NumberOfFrames = array.shape
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 1
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [float(f"{spacing[1]:.8f}"), float(f"{spacing[0]:.8f}")]
    measures.SliceThickness = measures.SpacingBetweenSlices = float(f"{spacing[2]:.8f}")
    axes = np.concatenate([lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]])
    orientation.ImageOrientationPatient = [float(f"{value:.10f}") for value in axes]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = [shared], []
    for z in range(array.shape[2]):
        position, frame = Dataset(), Dataset()
        position.ImagePositionPatient = [float(f"{value:.8f}") for value in lps[:3, 3] + z * lps[:3, 2]]
        frame.PlanePositionSequence = [position]
        image.PerFrameFunctionalGroupsSequence.append(frame)
    image.PixelData = np.ascontiguousarray(array.transpose()).astype("<i2").tobytes()
    image.save_as(path, enforce_file_format=True)
    return str(path)


def test_one_dicom_file_agrees_with_nifti(tmp_path: Path, oblique_affine: np.ndarray) -> None:
    array = np.random.default_rng(0).integers(-999, 999, SHAPE).astype(np.int16)
    nifti = read_image("magnitude", save(tmp_path / "image.nii.gz", array, oblique_affine))
    other = read_image("magnitude", enhanced_dicom(tmp_path / "image.dcm", array, oblique_affine))
    assert np.array_equal(other.values, nifti.values)
    assert np.allclose(other.affine, nifti.affine, atol=1e-4)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mgz", ".img"])
def test_endings_make_no_difference(tmp_path: Path, oblique_affine: np.ndarray, ending: str) -> None:
    array = random_image()
    kind = {".mgz": nib.MGHImage, ".img": nib.Nifti1Pair}.get(ending, nib.Nifti1Image)
    nib.save(kind(array, oblique_affine), tmp_path / f"image{ending}")
    image = read_image("magnitude", str(tmp_path / f"image{ending}"))
    assert np.array_equal(image.values[0], array)
    assert np.allclose(image.affine, oblique_affine, atol=1e-5)
    assert image.has_orientation


@pytest.mark.parametrize("extra", [(1,), (1, 1), (3,), (1, 3)])
def test_axes_of_length_one_are_dropped(tmp_path: Path, extra: tuple[int, ...]) -> None:
    array = random_image(*extra)
    values = read_image("mask", save(tmp_path / "image.nii", array)).values
    assert np.array_equal(values, np.moveaxis(array.reshape(*SHAPE, -1), -1, 0))


def test_scale_of_the_header_is_applied(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 4096, SHAPE).astype(np.int16)
    image = nib.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(2, -4096)
    nib.save(image, tmp_path / "phase.nii")
    raw = nib.load(tmp_path / "phase.nii").dataobj.get_unscaled()  # nibabel divides what it stores by the scale
    assert np.array_equal(read_image("phase", str(tmp_path / "phase.nii")).values[0], 2.0 * raw - 4096)


@pytest.mark.parametrize("slope", [np.nan, 0.0])
def test_no_scale_leaves_the_values(tmp_path: Path, slope: float) -> None:
    stored = np.random.default_rng(0).integers(0, 4096, SHAPE).astype(np.int16)
    path = tmp_path / "phase.nii"
    save(path, stored)
    content = bytearray(path.read_bytes())
    content[112:116] = np.float32(slope).tobytes()
    path.write_bytes(content)
    assert np.array_equal(read_image("phase", str(path)).values[0], stored)


def test_complex_numbers_stay_complex(tmp_path: Path) -> None:
    array = (random_image() + 1j * random_image()[::-1]).astype(np.complex64)
    values = read_image("magnitude", save(tmp_path / "complex.nii.gz", array)).values
    assert values.dtype == np.complex64
    assert np.array_equal(values[0], array)


def test_header_without_orientation_is_known(tmp_path: Path) -> None:
    image = nib.Nifti1Image(random_image(), None)
    nib.save(image, tmp_path / "image.nii")
    assert read_echoes("magnitude", [str(tmp_path / "image.nii")]).meta[HAS_ORIENTATION] is False


def colours(path: Path) -> str:
    array = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return save(path, array)


def itk_colours(path: Path) -> str:
    path = path.with_suffix(".mha")
    size = " ".join(map(str, SHAPE))
    header = f"ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = {size}\nElementNumberOfChannels = 3\n"
    path.write_bytes((header + "ElementType = MET_UCHAR\nElementDataFile = LOCAL\n").encode() + bytes(3 * 6 * 5 * 4))
    return str(path)


def truncated(path: Path) -> str:
    path = path.with_suffix(".nii.gz")
    save(path, np.random.default_rng(0).normal(size=(20, 20, 20)))
    path.write_bytes(path.read_bytes()[:-3000])
    return str(path)


def short(path: Path) -> str:
    save(path, np.zeros((20, 20, 20)))
    path.write_bytes(path.read_bytes()[:-3000])
    return str(path)


def text(path: Path) -> str:
    path.write_text("no image")
    return str(path)


def other_text(path: Path) -> str:
    path = path.with_suffix(".nrrd")
    path.write_text("no image")
    return str(path)


def zipped_text(path: Path) -> str:
    path = path.with_suffix(".nii.gz")
    path.write_bytes(gzip.compress(b"no image"))
    return str(path)


def slice_only(path: Path) -> str:
    return save(path, np.ones((20, 20, 1)))


def many_axes(path: Path) -> str:
    return save(path, np.ones((4, 4, 4, 2, 3)))


def sheared(path: Path) -> str:
    affine = np.eye(4)
    affine[0, 1] = 0.3
    return save(path, random_image(), affine)


def bad_scale(path: Path) -> str:
    save(path, np.ones(SHAPE, np.int16))
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([2.0, np.nan], np.float32).tobytes()
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("make", "finding"),
    [
        (colours, "colours"),
        (itk_colours, "colours"),
        (truncated, "cut short"),
        (short, "cut short"),
        (text, "another format"),
        (other_text, "format"),
        (zipped_text, "cut short"),
        (slice_only, "single slice"),
        (many_axes, "at most one axis"),
        (sheared, "sheared"),
        (bad_scale, "header"),
    ],
)
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, make: Callable[[Path], str], finding: str) -> None:
    path = make(tmp_path / "image.nii")
    with pytest.raises(InputError, match=finding) as caught:
        read_image("magnitude", path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"no file nowhere\.nii"):
        read_image("phase", "nowhere.nii")


def test_files_beside_an_image_of_several_volumes(tmp_path: Path) -> None:
    paths = [save(tmp_path / "a.nii", random_image()), save(tmp_path / "b.nii", random_image(3))]
    with pytest.raises(InputError, match="holds 3 volumes and there are 2 files"):
        read_echoes("magnitude", paths)


def test_echoes_on_different_grids(tmp_path: Path) -> None:
    moved = np.eye(4)
    moved[0, 3] = 1.0
    paths = [save(tmp_path / "a.nii", random_image()), save(tmp_path / "b.nii", random_image(), moved)]
    with pytest.raises(InputError, match="not on the grid"):
        read_echoes("magnitude", paths)


def header_with(path: Path, start: int, values: np.ndarray) -> str:
    """Write a file and overwrite bytes of its header."""
    save(path, random_image())
    content = bytearray(path.read_bytes())
    content[start : start + values.nbytes] = values.tobytes()
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_header_without_geometry_is_refused(tmp_path: Path, wrong: float) -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[1, 3] = wrong
    image = nib.Nifti1Image(random_image(), None)
    for row, values in zip(("srow_x", "srow_y", "srow_z"), affine, strict=False):
        image.header[row] = values
    image.header["sform_code"] = 1
    nib.save(image, tmp_path / "image.nii")
    with pytest.raises(InputError, match="without voxel sizes or position; repair its affine"):
        read_image("mask", str(tmp_path / "image.nii"))


def test_damaged_headers_are_refused_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """Sizes below 0 or beyond the memory, an offset below 0, an unknown type: each is another error of the library."""
    too_large, negative = np.array([3, 32767, 32767, 32767], "<i2"), np.array([3, -5, 30000, 30000], "<i2")
    damages = [(40, too_large), (40, negative), (108, np.array([-1e15], "<f4")), (70, np.array([22032], "<i2"))]
    for start, values in damages:
        with pytest.raises(InputError, match=";") as error:
            read_image("phase", header_with(tmp_path / "image.nii", start, values))
        assert "\n" not in str(error.value)
    assert not capfd.readouterr().err


def test_numbers_too_large_for_single_precision_become_infinite_without_a_warning(tmp_path: Path) -> None:
    path = save(tmp_path / "image.nii", np.full(SHAPE, 1e300))
    assert np.isinf(read_image("magnitude", path).values).all()
