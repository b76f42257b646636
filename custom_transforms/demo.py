"""`chisep demo`: simulate a subject, reconstruct it with the shipped weights, compare it with the truth."""

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from custom_transforms import keys
from custom_transforms.classical import ClosedFormSeparation
from custom_transforms.metrics import nrmse_percent
from custom_transforms.output import staged_folder
from custom_transforms.phantom.brain import AnatomicalBrain
from custom_transforms.physics import r2prime_per_s_to_ppm
from custom_transforms.reconstruct import reconstruct
from custom_transforms.report.figures import save_comparison_figure
from custom_transforms.simulate import Scan, map_path, write_dataset_files, write_subject
from custom_transforms.transforms.geometry import b0_direction_from_affine, voxel_size_from_affine

SUBJECT = "sub-01"
SEEDS = (20, 21)
TILT_DEG = 20.0
REGULARISATIONS = (0.0001, 0.0003, 0.0006, 0.001, 0.002, 0.004, 0.01, 0.03, 0.1)
"""Grid of lambda, of which the closed form gets the one that is best against the truth."""

SOURCES = (keys.CHI_PARA, keys.CHI_DIA)


def _read(path: Path) -> Tensor:
    return torch.from_numpy(nib.Nifti1Image.from_filename(path).get_fdata(dtype=np.float32))[None, None]


def best_closed_form(
    image: Tensor,
    truth: Tensor,
    voxel_size_mm: Tensor,
    b0_direction: Tensor,
    relaxivity_weights: Tensor | None = None,
    *,
    feasible_zero: bool,
) -> tuple[Tensor, float]:
    """Run the closed form with each lambda of the grid and keep the result of least mean NRMSE.

    Args:
        image: (1, 3, X, Y, Z), see :func:`custom_transforms.keys.split_image`.
        truth: (1, 2, X, Y, Z) in ppm.
        voxel_size_mm: (1, 3).
        b0_direction: (1, 3), unit vector in voxel axes.
        relaxivity_weights: (1, 2), or None for a single Dr.
        feasible_zero: see :class:`custom_transforms.classical.ClosedFormSeparation`.

    Returns:
        chi_para and chi_dia in ppm, (1, 2, X, Y, Z), and lambda.
    """
    _, _, mask = keys.split_image(image)

    def separate(regularisation: float) -> tuple[float, Tensor, float]:
        method = ClosedFormSeparation(regularisation=regularisation, feasible_zero=feasible_zero)
        chi: Tensor = method(image, voxel_size_mm, b0_direction, relaxivity_weights)
        return float(nrmse_percent(chi, truth, mask).mean()), chi, regularisation

    results = map(separate, tqdm(REGULARISATIONS, desc="closed form", disable=None))  # holds two results at a time
    _, chi, best = min(results, key=lambda result: result[0])
    return chi, best


def nrmse_table(truth: Tensor, estimates: Mapping[str, Tensor], mask: Tensor) -> str:
    """Write the errors of methods as a Markdown table.

    Args:
        truth: (1, 2, X, Y, Z) in ppm.
        estimates: the same for each method, by its name.
        mask: (1, 1, X, Y, Z).

    Returns:
        One row for each method: NRMSE in percent of both sources, absolute and with the means subtracted.
    """
    lines = [
        "| NRMSE, % | chi_para | chi_dia | chi_para, demeaned | chi_dia, demeaned |",
        "|---|---|---|---|---|",
    ]
    for name, estimate in estimates.items():
        values = [nrmse_percent(estimate, truth, mask, demean=demean)[0].tolist() for demean in (False, True)]
        lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for pair in values for value in pair) + " |")
    return "\n".join(lines) + "\n"


def demo(*, output: str = "demo") -> None:
    """Simulate one subject, reconstruct it, and compare the maps with the truth and with the closed form.

    Args:
        output: folder for the simulated files, the reconstruction, the figures and the table.
    """
    folder = Path(output)
    scan = Scan()
    with staged_folder(folder) as stage:
        brain = AnatomicalBrain(tilt_deg=TILT_DEG)
        write_subject(stage / "dataset", SUBJECT, brain=brain, scan=scan, seeds=SEEDS)
        write_dataset_files(stage / "dataset")
    files = {key: map_path(folder / "dataset", SUBJECT, key) for key in (keys.LOCAL_FIELD, keys.R2PRIME, keys.MASK)}
    reconstruct(
        local_field=str(files[keys.LOCAL_FIELD]),
        field_unit="ppm",
        r2prime=str(files[keys.R2PRIME]),
        mask=str(files[keys.MASK]),
        output=str(folder / "reconstruction"),
    )
    _compare(folder, files, scan)


def _compare(folder: Path, files: Mapping[str, Path], scan: Scan) -> None:
    affine = nib.Nifti1Image.from_filename(files[keys.MASK]).affine
    field, r2prime, mask = (_read(path) for path in files.values())
    image = torch.cat([field, r2prime_per_s_to_ppm(r2prime, scan.relaxivity_per_s_ppm), mask], dim=1)
    truth = torch.cat([_read(map_path(folder / "dataset", SUBJECT, name)) for name in SOURCES], dim=1)
    network = torch.cat([_read(folder / "reconstruction" / f"{name}.nii.gz") for name in SOURCES], dim=1)
    geometry = voxel_size_from_affine(affine)[None], b0_direction_from_affine(affine)[None]
    closed_form, regularisation = best_closed_form(image, truth, *geometry, feasible_zero=True)
    zero_mean, other = best_closed_form(image, truth, *geometry, feasible_zero=False)
    estimates = {
        "network": network,
        f"closed form (λ = {regularisation:g})": closed_form,
        f"closed form with zero mean (λ = {other:g})": zero_mean,
    }
    table = nrmse_table(truth, estimates, mask)
    with staged_folder(folder) as stage:
        (stage / "table.md").write_text(table, encoding="utf-8")
        shown = {"truth": truth, "network": network, "closed form": closed_form}
        maps = {name: dict(zip(SOURCES, chi[0], strict=True)) for name, chi in shown.items()}
        save_comparison_figure(stage / "comparison.png", maps.pop("truth"), maps, affine)
    print(f"{table}\nthe same in {folder / 'table.md'}; figures: {folder / 'comparison.png'} and", end=" ")
    print(folder / "reconstruction" / "reconstruction.png")
