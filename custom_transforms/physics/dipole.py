r"""Magnetic dipole kernel and its convolution: susceptibility (ppm) to relative field (ppm of B0).

    f = F^-1 D F chi,    D(k) = 1/3 - (k.b)^2 / |k|^2,    D(0) = 0,    -2/3 <= D <= 1/3

with k in cycles/mm on the image's own grid and b the unit vector of the main field in voxel axes (Salomir 2003,
doi:10.1002/cmr.b.10083).

The image is real, so half a spectrum is enough, if D is the transform of a real kernel: D(k) = D(-k mod N). On the
Nyquist planes of an even grid that fails for an oblique b (there k and -k mod N are different vectors), so D is the
mean of both. The operator is then real and symmetric: it is its own adjoint.
"""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

_CACHE_ENTRIES = 8


def _frequency(n: int, spacing_mm: Tensor, half: bool) -> tuple[Tensor, Tensor]:
    """Give k (cycles/mm), shape (B, n or n // 2 + 1), and the k of the mirrored index -i mod n."""
    index = torch.arange(n // 2 + 1 if half else n, device=spacing_mm.device)
    signed = torch.where(index * 2 >= n, index - n, index)
    mirrored = torch.where(index * 2 == n, signed, -signed)
    scale = 1.0 / (n * spacing_mm[:, None])
    return signed * scale, mirrored * scale


def _dipole(kx: Tensor, ky: Tensor, kz: Tensor, b: Tensor) -> Tensor:
    x, y, z = kx[:, :, None, None], ky[:, None, :, None], kz[:, None, None, :]
    bx, by, bz = b[:, 0, None, None, None], b[:, 1, None, None, None], b[:, 2, None, None, None]
    k2 = x * x + y * y + z * z
    along = x * bx + y * by + z * bz
    return torch.where(k2 > 0, 1.0 / 3.0 - along * along / torch.where(k2 > 0, k2, 1.0), 0.0)


def dipole_kernel(shape: list[int], voxel_size_mm: Tensor, b0_direction: Tensor) -> Tensor:
    """Build the half-spectrum dipole kernel for :func:`torch.fft.rfftn` over the last three axes.

    Args:
        shape: grid (X, Y, Z), even or odd.
        voxel_size_mm: (B, 3) voxel size in mm.
        b0_direction: (B, 3) unit vectors of the main field in voxel axes.

    Returns:
        D, dimensionless, (B, 1, X, Y, Z // 2 + 1), in the dtype and on the device of ``voxel_size_mm``.

    References:
        Salomir 2003, doi:10.1002/cmr.b.10083.
    """
    b = b0_direction.to(voxel_size_mm)
    kx, kx_mirror = _frequency(shape[0], voxel_size_mm[:, 0], False)
    ky, ky_mirror = _frequency(shape[1], voxel_size_mm[:, 1], False)
    kz, kz_mirror = _frequency(shape[2], voxel_size_mm[:, 2], True)
    kernel = (_dipole(kx, ky, kz, b) + _dipole(kx_mirror, ky_mirror, kz_mirror, b)) / 2
    return kernel[:, None]


def geometry_is_valid(voxel_size_mm: Tensor, b0_direction: Tensor) -> tuple[Tensor, Tensor]:
    """Say whether all voxel sizes (B, 3) are positive, and whether all directions (B, 3) are unit vectors."""
    return (voxel_size_mm > 0).all(), ((b0_direction.norm(2, dim=1) - 1).abs() < 1e-3).all()


def _check_shape(name: str, tensor: Tensor, batch: int) -> None:
    if tensor.ndim != 2 or tensor.shape[0] != batch or tensor.shape[1] != 3:
        raise ValueError(f"{name} must have shape ({batch}, 3), got {list(tensor.shape)}: one row for each image")


def _check_geometry(image: Tensor, voxel_size_mm: Tensor, b0_direction: Tensor) -> None:
    if image.ndim != 5:
        raise ValueError(f"the image must be (B, C, X, Y, Z), got {list(image.shape)}; add the missing axes")
    _check_shape("voxel_size_mm", voxel_size_mm, image.shape[0])
    _check_shape("b0_direction", b0_direction, image.shape[0])
    positive, unit = geometry_is_valid(voxel_size_mm, b0_direction)
    if not bool(positive):
        raise ValueError(f"voxel_size_mm must be positive, got {voxel_size_mm}")
    if not bool(unit):
        raise ValueError(f"b0_direction must hold unit vectors in voxel axes, got {b0_direction}")


def default_geometry(image: Tensor, voxel_size_mm: Tensor | None, b0_direction: Tensor | None) -> tuple[Tensor, Tensor]:
    """Fill in 1 mm isotropic voxels and B0 along +z, check both and bring them to the image's device, (B, 3) each.

    Raises:
        ValueError: wrong shape, a voxel size that is not positive, or a direction that is not a unit vector.
    """
    batch = image.shape[0]
    if voxel_size_mm is None:
        voxel_size_mm = torch.ones(batch, 3)
    if b0_direction is None:
        b0_direction = torch.tensor([[0.0, 0.0, 1.0]]).repeat(batch, 1)
    if torch.jit.is_scripting() or not torch.compiler.is_compiling():  # a scripted file refuses what this refuses
        _check_geometry(image, voxel_size_mm, b0_direction)
    dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
    return voxel_size_mm.to(image.device, dtype), b0_direction.to(image.device, dtype)


def _largest_other_factor(n: int) -> int:
    for factor in (2, 3, 5):
        while n % factor == 0:
            n = n // factor
    return n


def fast_fft_length(minimum: int) -> int:
    """Give the smallest even 2^a 3^b 5^c >= minimum: a length for which the FFT is fast."""
    n = max(2, minimum + minimum % 2)
    while _largest_other_factor(n) != 1:
        n += 2
    return n


def padded_shape(shape: list[int], padding: float) -> list[int]:
    """Grow a grid by the relative margin ``padding`` (1.0 doubles it) to fast FFT lengths; 0 leaves it alone."""
    if padding == 0:
        return shape
    return [fast_fft_length(math.ceil(n * (1 + padding))) for n in shape]


def convolve(image: Tensor, transfer: Tensor, grid: list[int]) -> Tensor:
    """Multiply the spectrum of ``image`` by ``transfer`` on a zero-padded grid, and crop back.

    Args:
        image: (B, C, X, Y, Z), real; half precision becomes float32.
        transfer: (B, 1, X', Y', Z' // 2 + 1), real, dimensionless.
        grid: (X', Y', Z') of the transfer function, at least the image's.

    Returns:
        The filtered image, (B, C, X, Y, Z), same unit.
    """
    if image.dtype != torch.float64:
        image = image.float()
    spectrum = torch.fft.rfftn(image, s=grid, dim=[-3, -2, -1])
    filtered = torch.fft.irfftn(spectrum * transfer, s=grid, dim=[-3, -2, -1])
    return filtered[..., : image.shape[-3], : image.shape[-2], : image.shape[-1]]


_cache: "OrderedDict[tuple, Tensor]" = OrderedDict()


@torch.jit.unused
def _cached_kernel(grid: list[int], voxel_size_mm: Tensor, b0_direction: Tensor) -> Tensor:
    geometry = torch.cat([voxel_size_mm, b0_direction], dim=1)
    key = (tuple(grid), tuple(geometry.flatten().tolist()), geometry.dtype, str(geometry.device))
    if key in _cache:
        _cache.move_to_end(key)
    else:
        # Inference mode off, else a first call within it would leave a kernel that training cannot use
        with torch.inference_mode(False), torch.no_grad():
            _cache[key] = dipole_kernel(grid, voxel_size_mm, b0_direction)
        if len(_cache) > _CACHE_ENTRIES:
            _cache.popitem(last=False)
    return _cache[key]


def kernel_for(grid: list[int], voxel_size_mm: Tensor, b0_direction: Tensor) -> Tensor:
    """Give :func:`dipole_kernel` from a small cache, or built in the graph when scripted, traced or compiled."""
    if torch.jit.is_scripting():
        return dipole_kernel(grid, voxel_size_mm, b0_direction)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return dipole_kernel(grid, voxel_size_mm, b0_direction)
    return _cached_kernel(grid, voxel_size_mm, b0_direction)


class DipoleConvolution(nn.Module):
    """Relative field of a susceptibility distribution, f = D chi, in float32 or better whatever autocast says.

    The operator is symmetric, so ``forward`` is also its adjoint.

    Args:
        padding: relative zero margin against wrap-around; 1.0 doubles each axis, 0 makes the convolution circular.
    """

    def __init__(self, *, padding: float = 0.5) -> None:
        super().__init__()
        if padding < 0:
            raise ValueError(f"padding must not be negative, got {padding}; 0 is circular, 1.0 doubles each axis")
        self.padding = float(padding)  # an int from JSON would not script

    def kernel(self, image: Tensor, voxel_size_mm: Tensor | None, b0_direction: Tensor | None) -> Tensor:
        """Give the kernel of an image's padded grid, (B, 1, X', Y', Z' // 2 + 1)."""
        voxel_size_mm, b0_direction = default_geometry(image, voxel_size_mm, b0_direction)
        return kernel_for(self.grid(image), voxel_size_mm, b0_direction)

    def grid(self, image: Tensor) -> list[int]:
        """Give the padded grid (X', Y', Z') of an image."""
        return padded_shape([image.shape[-3], image.shape[-2], image.shape[-1]], self.padding)

    def forward(
        self, chi_ppm: Tensor, voxel_size_mm: Tensor | None = None, b0_direction: Tensor | None = None
    ) -> Tensor:
        """Convolve with the dipole.

        Args:
            chi_ppm: (B, C, X, Y, Z) susceptibility in ppm.
            voxel_size_mm: (B, 3) in mm, or None for 1 mm.
            b0_direction: (B, 3) unit vectors in voxel axes, or None for +z.

        Returns:
            Relative field in ppm of B0, (B, C, X, Y, Z).
        """
        return convolve(chi_ppm, self.kernel(chi_ppm, voxel_size_mm, b0_direction), self.grid(chi_ppm))
