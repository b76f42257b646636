"""The tissue template of the anatomical brain: ICBM152 2009a, symmetric, 1 mm.

The package carries the probabilities of grey and white matter and the brain mask as one small uint8 file, so that
making phantoms needs no download and no nilearn. `build_template` made that file; the copyright notice is beside it.

References:
    Fonov et al. 2011, NeuroImage 54:313, doi:10.1016/j.neuroimage.2010.07.033
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TEMPLATE_FILE = Path(__file__).parent / "data" / "mni152_2009a_sym.npz"
MARGIN_VOXELS = 4  # left around the brain when the template is cropped


@dataclass(frozen=True)
class Template:
    """Tissue probabilities on a symmetric 1 mm grid whose axes are R, A, S.

    Attributes:
        gm: Probability of grey matter, (X, Y, Z), 0 to 1.
        wm: Probability of white matter, (X, Y, Z), 0 to 1.
        csf: Probability of cerebrospinal fluid, the rest of the mask, (X, Y, Z), 0 to 1.
        mask: The brain, (X, Y, Z), bool.
        affine: Voxel index to MNI mm, (4, 4), float64; x = 0 is the middle of the first axis.
    """

    gm: Tensor
    wm: Tensor
    csf: Tensor
    mask: Tensor
    affine: Tensor

    @property
    def origin_mm(self) -> tuple[float, float, float]:
        """Position of voxel (0, 0, 0), MNI mm."""
        x, y, z = self.affine[:3, 3].tolist()
        return x, y, z


@lru_cache(maxsize=2)
def load_template(device: str = "cpu") -> Template:
    """Load the template that the package carries; it is read once per device and must not be modified.

    Args:
        device: Where the tensors are put.

    Returns:
        The template, float32.

    Raises:
        FileNotFoundError: If the file is missing from the installation.
    """
    if not TEMPLATE_FILE.is_file():
        raise FileNotFoundError(f"the template {TEMPLATE_FILE} is missing: reinstall, or save build_template() there")
    with np.load(TEMPLATE_FILE) as arrays:
        gm, wm = (torch.from_numpy(arrays[name]).to(device).float() / 255 for name in ("gm", "wm"))
        mask = torch.from_numpy(arrays["mask"]).to(device).bool()
        affine = torch.from_numpy(arrays["affine"])
    gm, wm = gm * mask, wm * mask
    csf = (1 - gm - wm).clamp(min=0) * mask
    return Template(gm=gm, wm=wm, csf=csf, mask=mask, affine=affine)


def build_template() -> dict[str, np.ndarray]:
    """Make the arrays of the template file from nilearn's loaders (nilearn comes with the extra `dev`).

    The brain is where the skull-stripped T1 template is not zero. The grid is cropped to it, with a margin of
    `MARGIN_VOXELS`, and stays symmetric about x = 0.

    Returns:
        `gm` and `wm` (probability x 255, uint8), `mask` (0 or 1, uint8) and `affine` (float64), as for
        `np.savez_compressed(TEMPLATE_FILE, **build_template())`.
    """
    from nilearn import datasets

    mask_image = datasets.load_mni152_brain_mask(resolution=1, threshold=0.0)
    mask = np.asarray(mask_image.dataobj).astype(np.uint8)
    images = {
        "gm": datasets.load_mni152_gm_template(resolution=1),
        "wm": datasets.load_mni152_wm_template(resolution=1),
    }
    occupied = np.argwhere(mask)
    low = np.maximum(occupied.min(axis=0) - MARGIN_VOXELS, 0)
    high = np.minimum(occupied.max(axis=0) + MARGIN_VOXELS + 1, mask.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    affine = mask_image.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    probabilities = {name: np.rint(image.get_fdata()[box] * 255).astype(np.uint8) for name, image in images.items()}
    return {**probabilities, "mask": mask[box], "affine": affine}
