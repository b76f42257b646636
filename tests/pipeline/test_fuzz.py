"""Raw scans as bad as they come: each gives finite maps on the grid of the input, or one line with a remedy.

A good scan of a random shape, geometry, number format and unit gets up to two defects of the list. Some defects must be
refused, scans without one and with a mask must pass: so the property is known to bite.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.imageglobals import LoggingOutputSuppressor

from custom_transforms import keys
from custom_transforms.checks import InputError, check_maps, read_map, user_input
from custom_transforms.cli import main
from custom_transforms.options import Settings, check_plausible
from custom_transforms.physics import hz_per_ppm
from custom_transforms.pipeline.preprocess import (
    preprocess,
    preprocessing_config,
    require_for_separation,
    stages_of,
)
from custom_transforms.raw import explicit_scan, load_scan

BACKGROUND = 9  # its place among the stages of preprocess.json
FEW_ITERATIONS = {
    f"preprocessing#transforms#{BACKGROUND}#transform#iterations": 5,
    f"preprocessing#transforms#{BACKGROUND}#transform#radii_mm": [8.0, 4.0],  # larger balls on small voxels are slow
}
SPIN_ECHO_TIMES_S = (0.01, 0.02, 0.03)
HEADER_BYTES, SCALING_AT = 352, 112  # of NIfTI
REMEDIES = (";", "give", "check", "store", "use", "is it", "e.g.")

many = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Volumes of some hundred voxels are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Image:
    """What is stored in one file."""

    values: np.ndarray = field(repr=False)
    affine: np.ndarray = field(repr=False)
    dtype: str = "float32"
    scaling: tuple[float, float] | None = None  # slope and intercept of the header
    cut_at: float | None = None  # share of the file's bytes that are there
    damage: tuple[tuple[float, int], ...] = ()  # bytes that are wrong: place as a share of the header, value
    oriented: bool = True

    def save(self, path: Path) -> str:
        with np.errstate(invalid="ignore", over="ignore"):  # NaN as an integer
            stored = self.values.astype(self.dtype)
        image = nib.Nifti1Image(stored, None)
        header = image.header
        for row, values in zip(("srow_x", "srow_y", "srow_z"), self.affine, strict=False):
            header[row] = values
        header["sform_code"] = int(self.oriented)
        header["pixdim"][1:4] = np.nan_to_num(np.linalg.norm(self.affine[:3, :3], axis=0), nan=1, posinf=1)
        with LoggingOutputSuppressor():
            nib.save(image, path)
        if self.scaling is not None:
            _write(path, SCALING_AT, np.array(self.scaling, dtype="<f4").tobytes())
        for place, value in self.damage:
            _write(path, int(place * HEADER_BYTES), bytes([value]))
        if self.cut_at is not None:
            content = path.read_bytes()
            path.write_bytes(content[: int(self.cut_at * len(content))])
        return str(path)


def _write(path: Path, start: int, new: bytes) -> None:
    """Overwrite bytes of a file; of one that is not compressed, those of its header, which nibabel would put right."""
    content = bytearray(path.read_bytes())
    content[start : start + len(new)] = new
    path.write_bytes(content)


@dataclass(frozen=True)
class Raw:
    """A scan: its images by the option that names them, and its acquisition."""

    images: dict[str, Image]
    echo_times_s: tuple[float, ...] | None
    b0_tesla: float | None = 3.0
    vendor: str | None = None
    ending: str = ".nii"
    options: tuple[tuple[str, Any], ...] = ()

    def changed(self, name: str, change: Callable[[Image], Image]) -> "Raw":
        """Give the scan with one image changed, if it is there."""
        return replace(self, images={**self.images, name: change(self.images[name])}) if name in self.images else self


def affine_of(rng: np.random.Generator, oblique: bool) -> np.ndarray:
    """Give axes in any order and direction, perhaps oblique, of 0.3 to 4 mm."""
    axes = np.eye(3)[rng.permutation(3)] * rng.choice([-1.0, 1.0], 3)
    if oblique:
        axes = axes @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = axes * rng.uniform(0.3, 4.0, 3)
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return affine


def smooth(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Give a ramp with some noise, about -1 to 1."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return sum(rng.normal() * x for x in grid) / 2 + 0.05 * rng.normal(size=tuple(shape))


def stored_phase(phase: np.ndarray, unit: str) -> tuple[np.ndarray, str, tuple[float, float] | None]:
    """Give a phase in rad as numbers, their format and the scaling in the header."""
    if unit == "degrees":
        return np.degrees(phase), "float32", None
    if unit == "int16":
        return np.round(phase / np.pi * 4096).clip(-4096, 4095), "int16", None
    if unit == "uint16":
        return np.round((phase / np.pi + 1) * 2047.5), "uint16", None
    if unit == "uint8":
        return np.round((phase / np.pi + 1) * 127.5), "uint8", None
    if unit == "slope":
        return np.round((phase / np.pi + 1) * 2047.5), "uint16", (2.0, -4096.0)
    return phase, unit, None  # rad, in single or double precision


UNITS = ("float32", "float64", "degrees", "int16", "uint16", "uint8", "slope")
OPTION_OF_UNIT = {"float32": "rad", "float64": "rad", "degrees": "degrees"}


@st.composite
def good_scans(draw: st.DrawFn) -> tuple[Raw, np.random.Generator]:
    """Draw a scan as it should be, but small: a block of a mask, or none."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(draw(st.integers(2, 14)) for _ in range(3))
    echoes = draw(st.integers(1, 4))
    affine = affine_of(rng, draw(st.booleans()))
    spacing = rng.uniform(0.002, 0.008, echoes) if draw(st.booleans()) else np.full(echoes, 0.005)
    times = np.cumsum(spacing)
    t = times[:, None, None, None]
    signal = rng.uniform(1.0, 2.0, shape) * np.exp(-t * rng.uniform(5, 60, shape))
    wrapped = np.angle(np.exp(1j * (smooth(rng, shape) * 300 * t + smooth(rng, shape))))
    phase = np.where(rng.random(wrapped.shape) < 0.2, rng.uniform(-np.pi, np.pi, wrapped.shape), wrapped)
    unit = draw(st.sampled_from(UNITS))
    order = rng.permutation(echoes)
    stored, dtype, scaling = stored_phase(np.moveaxis(phase[order], 0, -1), unit)
    level = draw(st.sampled_from([("float32", 1.0), ("float64", 1e5), ("int16", 4000.0), ("uint16", 900.0)]))
    images = {
        "magnitude": Image(np.moveaxis(signal[order], 0, -1) * level[1], affine, level[0]),
        "phase": Image(stored, affine, dtype, scaling),
    }
    if draw(st.integers(0, 7)):
        mask = np.zeros(shape)
        mask[tuple(slice(int(n > 3), n - int(n > 4)) for n in shape)] = 1
        images["mask"] = Image(mask, affine, draw(st.sampled_from(["uint8", "float32"])))
    options = {
        "phase_unit": OPTION_OF_UNIT.get(unit, "scaled") if draw(st.booleans()) else "auto",
        "background": draw(st.sampled_from([*["pdf"] * 8, "vsharp", "pdf+vsharp"])),
        "r2star_method": draw(st.sampled_from([*["weighted"] * 4, "arlo"])),
        "phase_sign": draw(st.sampled_from(["auto", 1, -1])),
    }
    vendor = draw(st.sampled_from([None, "GE", "siemens", "Philips"]))
    ending = draw(st.sampled_from([".nii", ".nii.gz"])) if scaling is None else ".nii"
    b0_tesla = draw(st.sampled_from([0.05, 1.5, 3.0, 7.0, 11.7]))
    raw = Raw(images, tuple(times[order].tolist()), b0_tesla, vendor, ending, tuple(options.items()))
    return raw, rng


def _values(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Callable[..., Image]:
    """Make a change of values one of an image; numbers that integers lack are stored in single precision."""

    def changed(image: Image, rng: np.random.Generator) -> Image:
        return replace(image, values=change(np.array(image.values, dtype=float), rng), dtype="float32", scaling=None)

    return changed


def _put(values: np.ndarray, rng: np.random.Generator, what: float, share: float = 0.1) -> np.ndarray:
    chosen = rng.random(values.shape) < share
    chosen.flat[0] = True
    return np.where(chosen, what, values)


def _affine(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Callable[..., Image]:
    return lambda image, rng: replace(image, affine=change(image.affine.copy(), rng))


def _sheared(affine: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    affine[:3, 1] += rng.uniform(0.05, 0.5) * affine[:3, 0]
    return affine


def _singular(affine: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    affine[:3, rng.integers(3)] = 0
    return affine


def _no_number(affine: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    affine[rng.integers(3), rng.integers(4)] = rng.choice([np.nan, np.inf])
    return affine


def _one_axis_less(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.take(values, range(values.shape[axis := int(rng.integers(3))] - 1), axis)


OF_AN_IMAGE: dict[str, Callable[[Image, np.random.Generator], Image]] = {
    "NaN": _values(lambda v, rng: _put(v, rng, np.nan)),
    "infinite": _values(lambda v, rng: _put(v, rng, np.inf)),
    "all NaN": _values(lambda v, _: np.full_like(v, np.nan)),
    "constant": _values(lambda v, rng: np.full_like(v, rng.choice([0.0, 1.0, -3.0, 1e30]))),
    "constant echo": _values(lambda v, _: np.concatenate([np.zeros_like(v[..., :1]), v[..., 1:]], axis=-1)),
    "mostly 0": _values(lambda v, rng: _put(v, rng, 0.0, 0.95)),
    "negative": _values(lambda v, _: -v),
    "tiny": _values(lambda v, _: v * 1e-30),
    "huge": _values(lambda v, _: v * 1e30),
    "not wrapped": _values(lambda v, _: 5 * v + 0.3),
    "integers": lambda image, _: replace(image, dtype="int16", values=image.values.round(), scaling=None),
    "bytes": lambda image, _: replace(image, dtype="uint8", values=image.values.clip(0, 255), scaling=None),
    "complex": lambda image, _: replace(image, dtype="complex64", scaling=None),
    "another shape": lambda image, rng: replace(image, values=_one_axis_less(image.values, rng)),
    "single slice": lambda image, _: replace(image, values=image.values[:, :, :1]),
    "two axes more": lambda image, _: replace(image, values=np.stack([image.values] * 2, axis=-1)),
    "two axes only": lambda image, _: replace(image, values=image.values.reshape(image.values.shape[0], -1)),
    "echo missing": lambda image, _: replace(
        image, values=image.values[..., 1:] if image.values.ndim > 3 else image.values
    ),
    "moved": _affine(lambda a, rng: a + np.pad(np.eye(3)[rng.integers(3)][:, None] * 3, ((0, 1), (3, 0)))),
    "sheared": _affine(_sheared),
    "singular": _affine(_singular),
    "affine without numbers": _affine(_no_number),
    "no orientation": lambda image, _: replace(image, oriented=False),
    "cut": lambda image, rng: replace(image, cut_at=float(rng.uniform(0, 0.95))),
    "empty file": lambda image, _: replace(image, cut_at=0.0),
    "damaged": lambda image, rng: replace(
        image, damage=tuple((float(rng.random()), int(rng.integers(256))) for _ in range(rng.integers(1, 6)))
    ),
    "slope of 0": lambda image, _: replace(image, scaling=(0.0, 5.0)),
    "slope of NaN": lambda image, _: replace(image, scaling=(float("nan"), 0.0)),
    "slope": lambda image, rng: replace(image, scaling=(float(rng.uniform(-3, 3)), float(rng.normal()))),
}

OF_THE_ACQUISITION: dict[str, Callable[[Raw, np.random.Generator], Raw]] = {
    "no echo times": lambda raw, _: replace(raw, echo_times_s=None),
    "ms": lambda raw, _: replace(raw, echo_times_s=tuple(1000 * t for t in raw.echo_times_s)),
    "equal times": lambda raw, _: replace(raw, echo_times_s=(0.01,) * max(2, len(raw.echo_times_s))),
    "one time more": lambda raw, _: replace(raw, echo_times_s=(*raw.echo_times_s, 0.09)),
    "a negative time": lambda raw, _: replace(raw, echo_times_s=(-0.001, *raw.echo_times_s[1:])),
    "a time of NaN": lambda raw, _: replace(raw, echo_times_s=(float("nan"), *raw.echo_times_s[1:])),
    "nearly equal times": lambda raw, _: replace(
        raw, echo_times_s=tuple(0.01 + 2e-5 * i for i in range(len(raw.echo_times_s)))
    ),
    "gauss": lambda raw, _: replace(raw, b0_tesla=30000.0),
    "millitesla": lambda raw, _: replace(raw, b0_tesla=3000.0),
    "no field strength": lambda raw, _: replace(raw, b0_tesla=None),
    "field strength of no scanner": lambda raw, rng: replace(raw, b0_tesla=float(rng.choice([0, -3, np.nan, 1e9]))),
    "another vendor": lambda raw, _: replace(raw, vendor="Acme"),
    "no phase": lambda raw, _: replace(raw, images={k: v for k, v in raw.images.items() if k != "phase"}),
    "no magnitude": lambda raw, _: replace(raw, images={k: v for k, v in raw.images.items() if k != "magnitude"}),
    "no file": lambda raw, _: replace(raw, images={}),
}

REFUSED = {
    *(("magnitude", name) for name in ("NaN", "all NaN", "constant", "constant echo", "negative", "single slice")),
    *(("phase", name) for name in ("all NaN", "constant", "constant echo", "complex", "another shape", "moved")),
    *((None, name) for name in OF_THE_ACQUISITION if name != "nearly equal times"),
}
"""Defects that no scan may pass with, if they are its only ones."""
REFUSED |= {("mask", name) for name in ("all NaN", "not wrapped", "another shape", "moved", "complex")}
REFUSED |= {(image, name) for image in ("magnitude", "phase", "mask") for name in ("sheared", "singular", "empty file")}

Defect = tuple[str | None, str]
DEFECTS: list[Defect] = [
    *((image, name) for image in ("magnitude", "phase", "mask") for name in OF_AN_IMAGE),
    *((None, name) for name in OF_THE_ACQUISITION),
]


def with_defect(raw: Raw, defect: Defect, rng: np.random.Generator) -> Raw:
    """Give the scan with a defect; one of a mask that is not there changes nothing."""
    image, name = defect
    if name == "damaged":
        raw = replace(raw, ending=str(rng.choice([".nii", ".nii.gz"])))
    if image is None:
        return OF_THE_ACQUISITION[name](raw, rng) if raw.echo_times_s else raw
    if name.startswith("slope"):
        raw = replace(raw, ending=".nii")
    return raw.changed(image, lambda old: OF_AN_IMAGE[name](old, rng))


def stages(options: dict[str, Any], known: dict[str, Any] = {}) -> list[Any]:  # noqa: B006 (a cache)
    """Give the stages of preprocess.json, each set of options once."""
    key = repr(sorted(options.items()))
    if key not in known:
        parser = preprocessing_config({**options, "register_spin_echo": False, **FEW_ITERATIONS})
        known[key] = stages_of(parser.get_parsed_content("preprocessing"))
    return known[key]


def process(raw: Raw, folder: Path) -> dict[Any, Any]:
    """Take a scan from its files to its local field."""
    files = {name: image.save(folder / f"{name}{raw.ending}") for name, image in raw.images.items()}
    maps = {name: path for name, path in files.items() if name not in ("magnitude", "phase", "spin_echo")}
    scan = explicit_scan(
        **{name: path for name, path in files.items() if name not in maps},
        maps=maps,
        echo_times_s=raw.echo_times_s,
        b0_tesla=raw.b0_tesla,
        vendor=raw.vendor,
        spin_echo_times_s=SPIN_ECHO_TIMES_S,
    )
    data = preprocess(load_scan(scan), stages(dict(raw.options)), provided=scan.maps)
    require_for_separation(data, scan.name)
    return data


def check_result(data: dict[Any, Any], reference: Path) -> None:
    """Are the maps finite, and on the grid of a file?"""
    image = nib.load(reference)
    for key in {keys.MASK, keys.LOCAL_FIELD, keys.R2STAR, keys.R2PRIME, keys.TOTAL_FIELD} & data.keys():
        assert torch.isfinite(data[key]).all(), key
        assert data[key].shape == (1, *image.shape[:3]), key
        assert np.allclose(data[key].affine, image.affine, atol=1e-3), key
    mask = data[keys.MASK]
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert mask.any()


def check_refusal(error: Exception) -> None:
    message = str(error)
    assert len(message.splitlines()) == 1, message
    assert any(word in message.lower() for word in REMEDIES), message


def outcome(raw: Raw) -> Exception | None:
    """Process a scan, and check what comes of it; give the refusal."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            data = process(raw, Path(folder))
        except (InputError, FileNotFoundError) as error:
            check_refusal(error)
            return error
        name = "magnitude" if "magnitude" in raw.images else next(iter(raw.images))
        check_result(data, Path(folder) / f"{name}{raw.ending}")
    return None


@settings(many, max_examples=300)
@given(drawn=good_scans(), defects=st.lists(st.sampled_from(DEFECTS), max_size=2, unique=True))
def test_raw_scans(drawn: tuple[Raw, np.random.Generator], defects: list[Defect]) -> None:
    raw, rng = drawn
    for defect in defects:
        raw = with_defect(raw, defect, rng)
    refusal = outcome(raw)
    there = {None, *raw.images} if len(defects) == 1 else set()
    assert refusal is not None or not any(defect in REFUSED and defect[0] in there for defect in defects), defects


OWN_MAPS = (keys.UNWRAPPED_PHASE, keys.TOTAL_FIELD, keys.LOCAL_FIELD, keys.R2STAR, keys.R2, keys.R2PRIME)


@st.composite
def scans_with_own_maps(draw: st.DrawFn) -> tuple[Raw, np.random.Generator]:
    """Draw a scan with maps of the user, spin echoes, or both; perhaps without gradient echoes."""
    raw, rng = draw(good_scans())
    reference = raw.images["magnitude"]
    shape, images = reference.values.shape, dict(raw.images)
    for key in draw(st.lists(st.sampled_from(OWN_MAPS), max_size=3, unique=True)):
        size = shape if key == keys.UNWRAPPED_PHASE else shape[:3]
        values = rng.uniform(1, 40, size) if key in OWN_MAPS[3:] else 0.02 * smooth(rng, size)
        images[key] = Image(values, reference.affine, draw(st.sampled_from(["float32", "float64"])))
    if draw(st.booleans()):
        decay = np.exp(-0.01 * (1 + np.arange(3)) * rng.uniform(5, 30, (*shape[:3], 1)))
        turned = reference.affine @ np.diag([-1, 1, 1, 1]) if draw(st.booleans()) else reference.affine
        images["spin_echo"] = Image(500 * decay, turned, "int16")
    if any(key in images for key in OWN_MAPS[:3]) and draw(st.booleans()):
        images = {name: image for name, image in images.items() if name not in ("magnitude", "phase")}
    return replace(raw, images=images), rng


@settings(many, max_examples=200)
@given(
    drawn=scans_with_own_maps(),
    defects=st.lists(st.tuples(st.integers(0, 99), st.sampled_from(sorted(OF_AN_IMAGE))), max_size=2),
)
def test_maps_of_the_user(drawn: tuple[Raw, np.random.Generator], defects: list[tuple[int, str]]) -> None:
    raw, rng = drawn
    for number, name in defects:
        if raw.images:
            raw = with_defect(raw, (sorted(raw.images)[number % len(raw.images)], name), rng)
    refusal = outcome(raw)
    assert refusal is not None or any(key in raw.images for key in ("phase", *OWN_MAPS[:3]))


@st.composite
def maps_of_a_separation(draw: st.DrawFn) -> tuple[dict[str, Image], dict[str, Any], np.random.Generator]:
    """Draw local field, rate and mask as they should be, with the options that say their units."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(draw(st.integers(2, 12)) for _ in range(3))
    affine = affine_of(rng, draw(st.booleans()))
    b0_tesla = draw(st.sampled_from([0.5, 1.5, 3.0, 7.0]))
    unit, rate_unit = draw(st.sampled_from(["ppm", "hz", "rad"])), draw(st.sampled_from(["per_s", "per_ms"]))
    scale = {"ppm": 1.0, "hz": 42.577 * b0_tesla, "rad": 2 * np.pi * 0.02 * 42.577 * b0_tesla}[unit]
    rate = draw(st.sampled_from([keys.R2PRIME, keys.R2STAR]))
    rates = rng.uniform(2, 9, shape) + (12 if rate == keys.R2STAR else 0)
    mask = np.zeros(shape)
    mask[tuple(slice(int(n > 3), n - int(n > 4)) for n in shape)] = 1
    images = {
        keys.LOCAL_FIELD: Image(
            0.012 * rng.normal(size=shape) * scale, affine, draw(st.sampled_from(["float32", "float64"]))
        ),
        rate: Image(rates / (1 if rate_unit == "per_s" else 1000), affine),
        keys.MASK: Image(mask, affine, draw(st.sampled_from(["uint8", "int16", "float32"]))),
    }
    echo_time_s = 0.02 if unit == "rad" else None
    return images, {"field_unit": unit, "rate_unit": rate_unit, "b0_tesla": b0_tesla, "echo_time_s": echo_time_s}, rng


WRONG_OPTIONS: dict[str, dict[str, Any]] = {
    "hz for ppm": {"field_unit": "hz"},
    "ppm for hz": {"field_unit": "ppm"},
    "rad without an echo time": {"field_unit": "rad", "echo_time_s": None},
    "echo time in ms": {"field_unit": "rad", "echo_time_s": 20.0},
    "echo time of 0": {"field_unit": "rad", "echo_time_s": 0.0},
    "1/s for 1/ms": {"rate_unit": "per_s"},
    "gauss": {"b0_tesla": 30000.0},
    "no field": {"b0_tesla": 0.0},
    "field of NaN": {"b0_tesla": float("nan")},
}
NOT_HERE = {"affine without numbers", "singular", "damaged"}  # defects that the reader of raw data alone has to bear


@settings(many, max_examples=150)
@given(
    drawn=maps_of_a_separation(),
    defects=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(sorted(OF_AN_IMAGE.keys() - NOT_HERE))), max_size=2),
    wrong=st.sampled_from([None, None, None, *WRONG_OPTIONS]),
)
def test_maps_to_be_separated(drawn: Any, defects: list[tuple[int, str]], wrong: str | None) -> None:
    images, units, rng = drawn
    names = list(images)
    for number, name in defects:
        images[names[number]] = OF_AN_IMAGE[name](images[names[number]], rng)
    said = {**units, **WRONG_OPTIONS.get(wrong or "", {})}
    with tempfile.TemporaryDirectory() as folder:
        files = {key: image.save(Path(folder) / f"{key}.nii") for key, image in images.items()}
        try:
            with user_input():
                hz_per_ppm(said["b0_tesla"])
            maps = {key: read_map(key, path) for key, path in files.items()}
            check_maps(maps)
            relaxivity = 137 * units["b0_tesla"] / 3
            settings_of = {"relaxivity_para_per_s_ppm": relaxivity, "relaxivity_dia_per_s_ppm": relaxivity}
            rest = {"field_sign": 1, "b0_direction": None, "reference": "none"}
            check_plausible(maps, Settings(**said, **settings_of, **rest), force=False)
        except (InputError, FileNotFoundError) as error:
            check_refusal(error)
            few = np.nansum(images[keys.MASK].values) < 50  # which may have any median and SD
            assert defects or (wrong and said != units) or few, error
            return
        assert wrong not in ("rad without an echo time", "echo time of 0", "no field", "field of NaN", "gauss")
        inside = maps[keys.MASK] > 0.5
        assert all(torch.isfinite(image[inside]).all() for image in maps.values())


@pytest.mark.parametrize("seed", range(12))
def test_a_bad_scan_on_the_command_line(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """One line on standard error, exit code 2, no folder of the subject."""
    rng = np.random.default_rng(seed)
    image, name = sorted(REFUSED - {(None, "no file")}, key=str)[seed * 5 % (len(REFUSED) - 1)]
    shape, affine = (6, 7, 8, 2), affine_of(rng, True)
    images = {
        "magnitude": Image(rng.uniform(1, 2, shape), affine),
        "phase": Image(rng.uniform(-np.pi, np.pi, shape), affine),
        "mask": Image(np.ones(shape[:3]), affine),
    }
    raw = with_defect(Raw(images, (0.005, 0.01)), (image, name), rng)
    options = {key: image.save(tmp_path / f"{key}.nii") for key, image in raw.images.items()}
    options |= {
        key: str(value) for key, value in (("b0_tesla", raw.b0_tesla), ("vendor", raw.vendor)) if value is not None
    }
    if raw.echo_times_s:
        options["echo_times_s"] = ",".join(map(str, raw.echo_times_s))
    arguments = [f"--{key}={value}" for key, value in options.items()]
    monkeypatch.setattr(sys, "argv", ["chisep", "run", f"--output={tmp_path / 'maps'}", "--device=cpu", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capfd.readouterr().err
    assert stop.value.code == 2, (image, name)
    assert said.startswith("chisep: ")
    assert said.count("\n") == 1, said
    assert not list(tmp_path.glob("maps/sub-*"))
    assert not list(tmp_path.rglob("traceback.txt"))
