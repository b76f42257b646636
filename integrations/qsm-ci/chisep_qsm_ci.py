"""The chi-separation stage of QSM-CI by `chisep reconstruct`: chisep_qsm_ci.py INPUT_FOLDER OUTPUT_FOLDER VARIANT.

Reads localfield.nii.gz (ppm), r2prime.nii.gz (1/s), mask.nii.gz, params.json and, for variants that use it,
magnitude.nii.gz (one volume an echo) if there is one; writes chi-para.nii.gz and
chi-dia.nii.gz (ppm, both magnitudes) and reconstruction.json.
"""

import json
import math
import shutil
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from torch import Tensor

from custom_transforms import keys
from custom_transforms.checks import InputError, read_map, user_input
from custom_transforms.reconstruct import RECORD, reconstruct
from custom_transforms.transforms.geometry import b0_direction_from_affine, unit_vector, voxel_size_from_affine
from custom_transforms.variants import takes_magnitude

OUTPUTS = {"chi_para.nii.gz": "chi-para.nii.gz", "chi_dia.nii.gz": "chi-dia.nii.gz", RECORD: RECORD}
_VOXEL_ROUNDING = 0.01  # relative: params.json holds rounded sizes
_LARGEST_TILT_DEG = 1.0  # between two directions of B0 that are the same but for rounding


class Params(NamedTuple):
    """What params.json says.

    Attributes:
        b0_tesla: main field in T.
        b0_direction: (3,) in voxel axes. QSM-CI defines B0_dir in image coordinates and derives it from an affine as
            that affine's rotation, transposed, times the scanner's z: the convention of chisep, so nothing is to be
            rotated, and an oblique affine must not be applied once more.
        voxel_size_mm: (3,).
    """

    b0_tesla: float
    b0_direction: tuple[float, float, float]
    voxel_size_mm: tuple[float, float, float]


def _numbers(path: Path, name: str, value: object, count: int) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    # a bool is an int in Python, but not a number in JSON
    usable = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    if len(values) != count or len(usable) != count:
        expected = "a number" if count == 1 else f"{count} numbers"
        raise InputError(f"{path}: {name} must be {expected}, got {json.dumps(value)}; see QSM-CI's contract")
    return tuple(map(float, usable))


def read_params(path: Path) -> Params:
    """Read params.json.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not a JSON object, or a number is absent or is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; QSM-CI's runner writes it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}; correct it") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold an object, got {type(content).__name__}; see QSM-CI's contract")
    (b0_tesla,) = _numbers(path, "B0", content.get("B0"), 1)
    bx, by, bz = _numbers(path, "B0_dir", content.get("B0_dir"), 3)
    vx, vy, vz = _numbers(path, "voxel_size", content.get("voxel_size"), 3)
    return Params(b0_tesla, (bx, by, bz), (vx, vy, vz))


def check_geometry(params: Params, affine: Tensor) -> None:
    """Compare params.json with the header of the local field.

    The direction of params.json rules, as simulated heads may have any beside an affine without rotation, but one that
    differs is told: `qsm-ci run` without --params fills in +z for every image.

    Args:
        params: of params.json.
        affine: (4, 4), voxel indices to scanner coordinates (RAS+) in mm.

    Raises:
        InputError: the voxel sizes differ.
    """
    with user_input():
        stored = voxel_size_from_affine(affine).tolist()
        cosine = float((unit_vector(params.b0_direction) * b0_direction_from_affine(affine)).sum().abs().clamp(max=1))
    if not all(math.isclose(*pair, rel_tol=_VOXEL_ROUNDING) for pair in zip(params.voxel_size_mm, stored, strict=True)):
        said, found = (" x ".join(f"{v:g}" for v in sizes) for sizes in (params.voxel_size_mm, stored))
        raise InputError(f"voxel_size in params.json is {said} mm, but localfield.nii.gz has {found} mm; correct one")
    if cosine < math.cos(math.radians(_LARGEST_TILT_DEG)):
        angle = math.degrees(math.acos(cosine))
        print(
            f"chisep: warning: B0_dir of params.json, which is used, is {angle:.0f} degrees from that of the affine of "
            "localfield.nii.gz",
            file=sys.stderr,
        )


def separate(inputs: Path, output: Path, *, variant: str) -> None:
    """Separate the sources of one head.

    Args:
        inputs: folder with the files of the stage.
        output: folder for chi-para.nii.gz, chi-dia.nii.gz and reconstruction.json; made if need be.
        variant: method, one of bundle/configs/variants that takes R2'.

    Raises:
        FileNotFoundError: an input is not there.
        InputError: an input cannot be used.
    """
    params = read_params(inputs / "params.json")
    field = inputs / "localfield.nii.gz"
    check_geometry(params, read_map(keys.LOCAL_FIELD, str(field)).affine)
    magnitude = inputs / "magnitude.nii.gz"
    with user_input():
        magnitude_used = magnitude.is_file() and takes_magnitude(variant)
    # Not into `output` itself: what is staged lies beside it, and beside a container's /output nobody may write.
    with TemporaryDirectory(prefix="chisep-") as folder:
        with redirect_stdout(StringIO()):  # it names the temporary folder
            reconstruct(
                local_field=str(field),
                field_unit="ppm",
                r2prime=str(inputs / "r2prime.nii.gz"),
                mask=str(inputs / "mask.nii.gz"),
                magnitude=str(magnitude) if magnitude_used else None,
                output=folder,
                variant=variant,
                b0_direction=params.b0_direction,
                b0_tesla=params.b0_tesla,  # also scales the relaxivity, 137 1/s/ppm at 3 T
                force=True,  # a benchmark shall get a score for odd values too; what is odd is told on stderr
            )
        output.mkdir(parents=True, exist_ok=True)
        for name, target in OUTPUTS.items():
            shutil.move(Path(folder) / name, output / target)


def main() -> None:
    """Run the command line; mistakes in the input end in one line on standard error and exit code 2."""
    try:
        if len(sys.argv) != 4:
            raise InputError(f"expected INPUT_FOLDER OUTPUT_FOLDER VARIANT, got {len(sys.argv) - 1} arguments")
        separate(Path(sys.argv[1]), Path(sys.argv[2]), variant=sys.argv[3])
    except (InputError, FileNotFoundError) as error:
        print(f"chisep: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
