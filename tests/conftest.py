"""What tests share: the grid of geometries, tolerances with their reasons, a measured head, the rule for CUDA tests."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_transforms import keys, precision
from custom_transforms.phantom import Acquisition, RandomShapes

TOLERANCE: Mapping[str, float] = MappingProxyType(
    {
        "float64": 1e-12,  # algebraic identities: a few thousand roundings of 1e-16
        "float32": 1e-5,  # relative to the norm: FFTs and sums over a volume, each rounded at 6e-8
    }
)

SHAPES = {"even": (8, 6, 10), "odd": (7, 9, 5), "mixed": (8, 5, 6)}
VOXEL_SIZES_MM = {"isotropic": ((1.0, 1.0, 1.0), (0.8, 0.8, 0.8)), "anisotropic": ((0.9, 1.2, 2.0), (2.0, 0.7, 1.0))}
B0_DIRECTIONS = {"axial": ((0.0, 0.0, 1.0), (0.0, 0.0, 1.0)), "oblique": ((0.2, -0.4, 0.9), (0.6, 0.3, -0.5))}


@dataclass(frozen=True)
class Case:
    """One geometry; in a batch of two, the two samples differ.

    Attributes:
        shape: (X, Y, Z).
        voxel_size_mm: (B, 3), float64.
        b0_direction: (B, 3), unit vectors in voxel axes, float64.
        batch: B.
    """

    shape: tuple[int, int, int]
    voxel_size_mm: torch.Tensor
    b0_direction: torch.Tensor
    batch: int


def make_case(shape: str, voxel_size: str, b0: str, batch: int) -> Case:
    direction = torch.tensor(B0_DIRECTIONS[b0][:batch], dtype=torch.float64)
    return Case(
        shape=SHAPES[shape],
        voxel_size_mm=torch.tensor(VOXEL_SIZES_MM[voxel_size][:batch], dtype=torch.float64),
        b0_direction=torch.nn.functional.normalize(direction, dim=-1),
        batch=batch,
    )


@pytest.fixture(scope="session", autouse=True)
def float32_everywhere() -> Iterator[None]:
    """Backbones in float32 on all hardware: bfloat16 turns a last digit into some tenths of a ppb."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "has_fast_bfloat16", lambda device: False)
        yield


@pytest.fixture(params=product(SHAPES, VOXEL_SIZES_MM, B0_DIRECTIONS, (1, 2)), ids=lambda p: "-".join(map(str, p)))
def geometry(request: pytest.FixtureRequest) -> Case:
    """Every combination of shape, voxel size, B0 direction and batch."""
    return make_case(*request.param)


@pytest.fixture(scope="session")
def tolerance() -> Mapping[str, float]:
    """Largest relative error, by floating point type."""
    return TOLERANCE


@pytest.fixture(scope="session")
def oblique_affine() -> np.ndarray:
    """Voxels of 1.0 x 1.1 x 1.4 mm, B0 along none of their axes."""
    q, r = np.linalg.qr(np.array([[1.0, 0.2, 0.1], [-0.3, 1.0, 0.3], [0.2, -0.4, 1.0]]))
    affine = np.eye(4)
    affine[:3, :3] = q * np.sign(np.diag(r)) * (1.0, 1.1, 1.4)
    affine[:3, 3] = (-30.0, 12.0, 5.0)
    return affine


@pytest.fixture(scope="session")
def head(oblique_affine: np.ndarray) -> dict[str, np.ndarray]:
    """A phantom measured at SNR 100 in an oblique grid: input in ppm and 1/s, and the truth."""
    generator = torch.Generator().manual_seed(3)
    tissue = RandomShapes(shape=(32, 28, 24))(1, generator)
    voxel_size_mm = np.linalg.norm(oblique_affine[:3, :3], axis=0)
    tissue[keys.VOXEL_SIZE_MM] = torch.from_numpy(voxel_size_mm)[None].float()
    tissue[keys.B0_DIRECTION] = torch.from_numpy(oblique_affine[2, :3] / voxel_size_mm)[None].float()
    maps = Acquisition()(tissue, snr=100.0, generator=generator)
    names = (keys.LOCAL_FIELD, keys.R2PRIME, keys.R2STAR, keys.MASK, keys.CHI_PARA, keys.CHI_DIA)
    return {name: maps[name][0, 0].numpy() for name in names}


@pytest.fixture(scope="session")
def store(oblique_affine: np.ndarray) -> Callable[..., dict[str, str]]:
    """Write the input of a reconstruction; give the options that name it."""

    def write(
        folder: Path, maps: dict[str, np.ndarray], affine: np.ndarray = oblique_affine, *, rate: str = keys.R2PRIME
    ) -> dict[str, str]:
        folder.mkdir(parents=True, exist_ok=True)
        files = {name: str(folder / f"{name}.nii.gz") for name in (keys.LOCAL_FIELD, rate, keys.MASK)}
        for name, path in files.items():
            nib.save(nib.Nifti1Image(maps[name], affine), path)
        return files

    return write


@pytest.fixture(scope="session")
def files(
    head: dict[str, np.ndarray], store: Callable[..., dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The stored head."""
    return store(tmp_path_factory.mktemp("input"), head)


@pytest.fixture(scope="session")
def gradient_echoes(
    head: dict[str, np.ndarray], store: Callable[..., dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The same measurement without spin echoes."""
    return store(tmp_path_factory.mktemp("gre"), head, rate=keys.R2STAR)


def as_map(key: str, values: torch.Tensor) -> MetaTensor:
    meta = {"filename_or_obj": f"{key}.nii.gz", "has_orientation": True}
    return MetaTensor(values, affine=torch.eye(4).double(), meta=meta)


@pytest.fixture
def maps() -> dict[str, MetaTensor]:
    """A field of SD 0.012 ppm, R2' of median 6 1/s, a block of a mask."""
    shape = (1, 9, 8, 7)
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(shape)
    mask[:, 2:7, 2:6, 1:6] = 1
    field = 0.012 * torch.randn(shape, generator=generator)
    r2prime = 6 + torch.randn(shape, generator=generator)
    return {key: as_map(key, v) for key, v in ((keys.LOCAL_FIELD, field), (keys.R2PRIME, r2prime), (keys.MASK, mask))}


@pytest.fixture
def r2star_maps(maps: dict[str, MetaTensor]) -> dict[str, MetaTensor]:
    """The same with R2* of median 18 1/s instead of R2'."""
    r2prime = maps.pop(keys.R2PRIME)
    return maps | {keys.R2STAR: as_map(keys.R2STAR, r2prime.as_tensor() + 12)}


def pytest_configure() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(scope="session")
def romeo_crop() -> Path:
    """A measured crop of a head, three echoes; it is not part of the repository."""
    shared = os.environ.get("CHISEP_SHARED_DATA")
    folder = Path(shared) if shared else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "romeo_crop" / "Mag.nii").is_file():
        pytest.skip("the measured crop is not there; CHISEP_SHARED_DATA names the folder that holds romeo_crop")
    return folder / "romeo_crop"
