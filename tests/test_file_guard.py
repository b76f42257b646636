"""Hostile image files: each is refused in one line, before it is read, with a memory and a time that are bounded.

The same files go through every way in: the maps of `chisep reconstruct`, the images of `chisep run`, and the transform
of inference.json and train.json. Good files pass all three, so that the refusals are known to be of the damage.
"""

import gzip
import os
import pickle
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom_transforms import file_guard
from custom_transforms.checks import read_map
from custom_transforms.file_guard import LARGEST_GIB_VARIABLE, check_image_file, largest_bytes
from custom_transforms.raw.images import read_image
from custom_transforms.transforms import CheckFilesd

SHAPE = (9, 8, 7)
MIB = 2**20
BOMB_GIB = 12
READERS: dict[str, Callable[[str], object]] = {
    "reconstruct": lambda path: read_map("mask", path),
    "run": lambda path: read_image("mask", path),
    "inference.json": lambda path: CheckFilesd(keys="mask")({"mask": path}),
}


def nifti(shape: tuple[int, ...] = SHAPE, *, code: int = 16, ndim: int | None = None, offset: float = 352.0) -> bytes:
    """Give a header of NIfTI that says what one likes, with its four bytes behind it."""
    header = np.zeros((), nib.Nifti1Header.template_dtype)
    header["sizeof_hdr"], header["magic"], header["vox_offset"], header["datatype"] = 348, b"n+1", offset, code
    header["dim"][0] = len(shape) if ndim is None else ndim
    header["dim"][1 : len(shape) + 1] = shape
    header["bitpix"], header["pixdim"], header["sform_code"] = 32, 1, 1
    header["srow_x"][0] = header["srow_y"][1] = header["srow_z"][2] = 1
    return header.tobytes() + bytes(4)


def values(count: int = 9 * 8 * 7) -> bytes:
    return np.random.default_rng(0).random(count, dtype=np.float32).tobytes()


def zeros_gib(size_gib: float) -> bytes:
    """Give gzip members, together some MB, that unpack to so many GiB of zeros."""
    return gzip.compress(bytes(64 * MIB)) * int(size_gib * 16)


def bomb(head: bytes) -> bytes:
    return gzip.compress(head + values()) + zeros_gib(BOMB_GIB)


def extension(size: int) -> bytes:
    """Give a header whose extension pretends to have so many bytes; below 0 a reader may take all that is there."""
    return nifti(offset=384.0)[:348] + b"\1\0\0\0" + np.array([size, 4], "<i4").tobytes() + bytes(24)


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def corrupt(content: bytes) -> bytes:
    """Change the checksum that ends a gzip file."""
    return content[:-8] + bytes(8)


HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "huge dimensions of a small file": (".nii", lambda: nifti((32767, 32767, 32767), code=64) + bytes(1000)),
    "the same, compressed": (".nii.gz", lambda: gzip.compress(nifti((32767, 32767, 32767), code=64) + bytes(1000))),
    "more than the data": (".nii", lambda: nifti((90, 80, 70)) + values()),
    "less than the data": (".nii", lambda: nifti((3, 2, 2)) + values(100_000)),
    "less than the data, compressed": (".nii.gz", lambda: gzip.compress(nifti((3, 2, 2)) + values(100_000))),
    "truncated": (".nii", lambda: cut(nifti() + values())),
    "truncated, compressed": (".nii.gz", lambda: cut(gzip.compress(nifti() + values()))),
    "wrong checksum": (".nii.gz", lambda: corrupt(gzip.compress(nifti() + values()))),
    "only a header": (".nii", nifti),
    "half a header": (".nii", lambda: nifti()[:200]),
    "empty": (".nii", lambda: b""),
    "empty, compressed": (".nii.gz", lambda: b""),
    "negative dimension": (".nii", lambda: nifti((9, -8, 7)) + values()),
    "two negative dimensions": (".nii", lambda: nifti((9, -8, -7)) + values()),
    "zero dimension": (".nii", lambda: nifti((9, 0, 7)) + values()),
    "no dimensions": (".nii", lambda: nifti(ndim=0) + values()),
    "100 dimensions": (".nii", lambda: nifti(ndim=100) + values()),
    "a negative number of dimensions": (".nii", lambda: nifti(ndim=-3) + values()),
    "unknown type": (".nii", lambda: nifti(code=22032) + values()),
    "offset beyond the file": (".nii", lambda: nifti(offset=1e15) + values()),
    "offset of NaN": (".nii", lambda: nifti(offset=float("nan")) + values()),
    "offset below 0": (".nii", lambda: nifti(offset=-1e6) + values()),
    "no gzip": (".nii.gz", lambda: nifti() + values()),
    "gzip without its ending": (".nii", lambda: gzip.compress(nifti() + values())),
    "zlib": (".nii.gz", lambda: zlib.compress(nifti() + values())),
    "text": (".nii", lambda: b"<script>" * 1000),
    "a pickle": (".nii", lambda: pickle.dumps({"a": 1}) + bytes(1000)),
    "bomb": (".nii.gz", lambda: bomb(nifti())),
    "bomb that its header admits": (".nii.gz", lambda: bomb(nifti((2048, 2048, 768)))),
    "bomb before the values": (".nii.gz", lambda: bomb(nifti(offset=2.0**33))),
    "bomb of an extension": (".nii.gz", lambda: bomb(extension(2**31 - 16))),
    "bomb of an extension below 0": (".nii.gz", lambda: bomb(extension(-16))),
}


def write(folder: Path, name: str) -> str:
    ending, content = HOSTILE[name]
    path = folder / f"image{ending}"
    path.write_bytes(content())
    return str(path)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Write the file of a name, once."""
    folder = tmp_path_factory.mktemp("hostile")
    written: dict[str, str] = {}

    def path_of(name: str) -> str:
        if name not in written:
            (folder / str(len(written))).mkdir()
            written[name] = write(folder / str(len(written)), name)
        return written[name]

    return path_of


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", HOSTILE)
def test_refused_in_one_line(
    hostile: Callable[[str], str], name: str, reader: str, capfd: pytest.CaptureFixture
) -> None:
    path = hostile(name)
    with pytest.raises(ValueError) as refused:
        READERS[reader](path)
    assert f"mask ({path})" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not any(capfd.readouterr())


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("head", [nifti(), nifti(offset=384.0)[:348] + b"\1\0\0\0 \0\0\0\4\0\0\0" + bytes(24)])
def test_good_files_pass(tmp_path: Path, reader: str, ending: str, head: bytes) -> None:
    content = head + values()
    path = tmp_path / f"image{ending}"
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    READERS[reader](str(path))


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file(tmp_path: Path, reader: str) -> None:
    """A pipe would wait for ever, a device never end."""
    pipe, loop, device, folder = (str(tmp_path / f"{name}.nii") for name in ("pipe", "loop", "device", "folder"))
    os.mkfifo(pipe)
    os.symlink(loop, loop)
    os.symlink("/dev/zero", device)
    os.mkdir(folder)
    for path in (pipe, loop, device, folder, str(tmp_path / ("long" * 100 + ".nii")), "nul\0.nii"):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            READERS[reader](path)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".nrrd", ".dcm", ".png", ".pkl", ""])
def test_the_bundle_reads_nifti_alone(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"image{ending}"
    path.write_bytes(nifti() + values())
    with pytest.raises(ValueError, match="store it as NIfTI"):
        READERS["inference.json"](str(path))


def test_other_formats(tmp_path: Path) -> None:
    """MGH unpacks itself before it says how large it is; MetaImage makes room for what its header claims."""
    nib.save(nib.MGHImage(np.ones(SHAPE, np.float32), np.eye(4)), tmp_path / "good.mgz")
    check_image_file("mask", str(tmp_path / "good.mgz"))
    unpacked = gzip.decompress((tmp_path / "good.mgz").read_bytes())
    (tmp_path / "bomb.mgz").write_bytes(gzip.compress(unpacked) + zeros_gib(BOMB_GIB))
    (tmp_path / "huge.mgh").write_bytes(unpacked[:4] + np.array([2**30] * 3, ">i4").tobytes() + unpacked[16:])
    (tmp_path / "header.hdr").write_bytes(nifti((900, 800, 700)).replace(b"n+1", b"ni1"))
    (tmp_path / "header.img").write_bytes(values())
    text = "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 32767 32767 32767\nElementType = MET_FLOAT\n"
    (tmp_path / "huge.mha").write_text(text + "ElementDataFile = LOCAL\n")
    for name in ("bomb.mgz", "huge.mgh", "header.hdr", "header.img", "huge.mha"):
        with pytest.raises(ValueError, match=name) as refused:
            read_image("mask", str(tmp_path / name))
        assert "\n" not in str(refused.value)


MEASURE = textwrap.dedent(
    """
    import resource, sys, time
    from custom_transforms.checks import read_map
    from custom_transforms.raw.images import read_image
    from custom_transforms.transforms import CheckFilesd

    readers = (lambda path: read_map("mask", path), lambda path: read_image("mask", path),
               lambda path: CheckFilesd(keys="mask")({"mask": path}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    for path in sys.argv[1:]:
        for reader in readers:
            try:
                reader(path)
                sys.exit(f"{path} was read")
            except ValueError:
                pass
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - start)
    """
)


def test_memory_and_time_are_bounded(hostile: Callable[[str], str]) -> None:
    """Twelve GiB, five times, three ways: some MiB and less than the second that unpacking one of them would take."""
    bombs = [hostile(name) for name in HOSTILE if "bomb" in name]
    assert max(Path(path).stat().st_size for path in bombs) < 20 * MIB
    command = [sys.executable, "-c", MEASURE, *bombs]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    grown_kib, seconds = map(float, done.stdout.split())
    assert grown_kib < 64 * 1024
    assert seconds < 3


def test_the_limit_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.nii"
    path.write_bytes(nifti() + values())
    check_image_file("mask", str(path))
    file_guard._check.cache_clear()
    monkeypatch.setenv(LARGEST_GIB_VARIABLE, "0.000001")
    with pytest.raises(ValueError, match=rf"GiB, and .* are allowed; .* set {LARGEST_GIB_VARIABLE}"):
        check_image_file("mask", str(path))
    for wrong in ("much", "-1", "nan", "inf", ""):
        monkeypatch.setenv(LARGEST_GIB_VARIABLE, wrong)
        with pytest.raises(ValueError, match="must be a number of GiB"):
            largest_bytes()


def test_a_file_that_changes_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "image.nii"
    path.write_bytes(nifti() + values())
    check_image_file("mask", str(path))
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(ValueError, match="cut short"):
        check_image_file("mask", str(path))
