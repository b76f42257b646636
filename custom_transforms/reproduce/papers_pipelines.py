"""Simulated heads as they are measured, and the pipelines that reconstruct them, each with the same call.

    pipeline.reconstruct(head) -> maps (N, C, X, Y, Z) in ppm, of the head's N orientations

with C = 1 for chi_total and 2 for chi_para and chi_dia. A conventional method gets the regularisation that is best
against the truth, head by head.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from monai.data import MetaTensor
from monai.utils import convert_to_tensor
from torch import Tensor

from custom_transforms import keys
from custom_transforms.classical import ClosedFormSeparation, TikhonovSusceptibility
from custom_transforms.classical.cosmos import cosmos
from custom_transforms.cohort import turned_heads
from custom_transforms.demo import REGULARISATIONS
from custom_transforms.metrics import nrmse_percent
from custom_transforms.phantom.acquisition import Acquisition
from custom_transforms.phantom.brain import AFFINE
from custom_transforms.physics import RELAXIVITY_3T_PER_S_PPM, r2prime_per_s_to_ppm
from custom_transforms.relaxometry import combine_echoes
from custom_transforms.variants import LoadedVariant, inference_config, uses_magnitude


class MeasuredHead:
    """A head, measured by simulated echoes in one or more orientations.

    Args:
        tissue: what :class:`AnatomicalBrain` makes.
        orientations: their number; the first one is the head's own.
        snr: signal of white matter at echo time 0 over the SD of the noise.
        seed: of the orientations and of the noise.
    """

    def __init__(self, tissue: Mapping[str, Tensor], *, orientations: int, snr: float, seed: int) -> None:
        self.tissue = tissue
        generator = torch.Generator(tissue[keys.MASK].device).manual_seed(seed)
        acquisition = Acquisition()
        heads = turned_heads(tissue, orientations, seed)
        self.scans = [_combined(acquisition(head, snr=snr, generator=generator, echoes=True)) for head in heads]
        self.mask = tissue[keys.MASK][None]
        self.truth = torch.stack([tissue[keys.CHI_PARA], tissue[keys.CHI_DIA]], dim=1)

    def image(self, orientation: int, rate: str, *, magnitude: bool = False) -> MetaTensor:
        """The input (1, 3 or 4, X, Y, Z) of one orientation, with "r2prime" or "r2star" as its rate."""
        scan = self.scans[orientation]
        rate_ppm = r2prime_per_s_to_ppm(scan[rate], RELAXIVITY_3T_PER_S_PPM)
        channels = [scan[keys.LOCAL_FIELD], rate_ppm, scan[keys.MASK], *([scan[keys.MAGNITUDE]] if magnitude else [])]
        return MetaTensor(torch.cat(channels)[None], affine=scan[AFFINE])

    def geometry(self, orientation: int) -> tuple[Tensor, Tensor]:
        """Voxel size (1, 3), mm, and direction of B0 in voxel axes (1, 3)."""
        scan = self.scans[orientation]
        return scan[keys.VOXEL_SIZE_MM][None], scan[keys.B0_DIRECTION][None]


def _combined(scan: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep one magnitude of all echoes, and no phase."""
    magnitude = combine_echoes(scan[keys.MAGNITUDE])
    return {key: value for key, value in scan.items() if key != keys.PHASE} | {keys.MAGNITUDE: magnitude}


@dataclass(frozen=True)
class Pipeline:
    """A way from a measured head to its maps.

    Attributes:
        name: shown in the tables.
        version: another one for other weights, so that results of old ones are not taken for new.
        reconstruct: see the head of the module.
    """

    name: str
    version: str
    reconstruct: Callable[[MeasuredHead], Tensor]


def variant_pipeline(name: str, variant: LoadedVariant) -> Pipeline:
    """Both sources by a variant of the bundle."""
    return Pipeline(name, _version(name, variant), partial(_run_variant, variant, variant.network))


def susceptibility_pipeline(name: str, variant: LoadedVariant) -> Pipeline:
    """The chi_total that a variant makes before it is split into sources."""
    return Pipeline(
        name, _version(name, variant), partial(_run_variant, variant, variant.network.get_submodule("susceptibility"))
    )


def truth_pipeline() -> Pipeline:
    """The truth, as if a pipeline had found it."""
    return Pipeline("truth", "", lambda head: head.truth)


def closed_form_pipeline() -> Pipeline:
    """Both sources by Tikhonov inversion and algebra."""
    return Pipeline("closed form", "", lambda head: _best(head, ClosedFormSeparation, head.truth))


def tikhonov_pipeline() -> Pipeline:
    """chi_total by Tikhonov inversion."""
    return Pipeline("Tikhonov", "", lambda head: _best(head, TikhonovSusceptibility, total(head.truth)))


def cosmos_pipeline() -> Pipeline:
    """chi_total from all orientations together."""
    return Pipeline("COSMOS", "", _run_cosmos)


def total(chi: Tensor) -> Tensor:
    """chi_total (N, 1, X, Y, Z) of both sources (N, 2, X, Y, Z)."""
    return chi[:, :1] - chi[:, 1:]


def _run_variant(variant: LoadedVariant, network: Callable[..., Tensor], head: MeasuredHead) -> Tensor:
    magnitude = uses_magnitude(variant.network)
    images = (head.image(i, variant.rate, magnitude=magnitude) for i in range(len(head.scans)))
    with torch.inference_mode():
        return torch.cat([convert_to_tensor(variant.inferer(image, network), track_meta=False) for image in images])


def _best(head: MeasuredHead, method: Callable[..., torch.nn.Module], truth: Tensor) -> Tensor:
    """Run a method with the regularisation that has the least mean demeaned NRMSE in the first orientation."""

    def run(regularisation: float, orientation: int) -> Tensor:
        image = head.image(orientation, keys.R2PRIME).as_tensor()
        maps: Tensor = method(regularisation=regularisation)(image, *head.geometry(orientation))
        return maps

    def error(regularisation: float) -> float:
        return float(nrmse_percent(run(regularisation, 0), truth, head.mask, demean=True).mean())

    best = min(REGULARISATIONS, key=error)
    return torch.cat([run(best, i) for i in range(len(head.scans))])


def _run_cosmos(head: MeasuredHead) -> Tensor:
    fields = torch.cat([scan[keys.LOCAL_FIELD] for scan in head.scans])[None]
    directions = torch.stack([scan[keys.B0_DIRECTION] for scan in head.scans])[None]
    return cosmos(fields, head.mask, head.geometry(0)[0], directions)


def _version(name: str, variant: LoadedVariant) -> str:
    """Tell weights, and the parameters of a conventional method, from others."""
    # not the state dictionary, which leaves out the frozen networks inside
    tensors = [*variant.network.named_parameters(), *variant.network.named_buffers()]
    if not tensors:
        return hashlib.sha256(json.dumps(inference_config(name)[""], sort_keys=True, default=str).encode()).hexdigest()
    digest = hashlib.sha256()
    for tensor_name, values in tensors:
        digest.update(tensor_name.encode() + values.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()
