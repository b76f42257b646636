"""From simulated echoes to maps and report: errors at every stage, time and memory of the whole.

    python benchmarks/raw_to_maps.py [--work bundle/runs/raw_to_maps] [--conditions iso aniso]

Whole heads with skull, scalp and air, 5 gradient and 6 spin echoes at 3 T, SNR 100, tilted by 20 degrees, 1 mm and
0.8 x 0.8 x 2 mm. `chisep run` gets the raw data alone. Then `chisep reconstruct` gets the same mask and R2' with the
true local field: what background removal and unwrapping cost is the ratio of both errors.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from custom_transforms import keys
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.pipeline.derivatives import map_path
from custom_transforms.provenance import hardware

CONDITIONS = {"iso": ("1,1,1", 2), "aniso": ("0.8,0.8,2", 3)}
TILT_DEG = 20
SCAN = "sub-01"
SMALLEST_REGION = 100  # voxels
DEPTH_MM = 3.0


def chisep(*arguments: str) -> None:
    """Run a command of chisep in a process of its own."""
    subprocess.run([Path(sys.executable).with_name("chisep"), *arguments], check=True)


def load(path: Path) -> NDArray:
    """Give the values of a map."""
    return nib.Nifti1Image.from_filename(path).get_fdata(dtype=np.float32)


def nrmse(found: NDArray, truth: NDArray, inside: NDArray) -> float:
    """Give 100 |a - b| / |b| inside."""
    return float(100 * np.linalg.norm((found - truth)[inside]) / np.linalg.norm(truth[inside]))


def region_bias_percent(found: NDArray, truth: NDArray, regions: NDArray, inside: NDArray) -> dict[str, float]:
    """Give the median of found over that of the truth in every region, less 1, in %."""
    bias = {}
    for name, index in REGIONS.items():
        where = inside & (regions == index)
        if index and where.sum() >= SMALLEST_REGION:
            bias[name] = float(100 * (np.median(found[where]) / np.median(truth[where]) - 1))
    return bias


def measure(name: str, work: Path) -> None:
    """Print the figures of a condition."""
    voxel_size, seed = CONDITIONS[name]
    raw, output = work / f"raw_{name}", work / f"maps_{name}"
    if not raw.exists():
        size = f"--voxel_size={voxel_size}"
        chisep("simulate-raw", f"--output={raw}", size, f"--tilt_deg={TILT_DEG}", f"--seed={seed}")
    start = time.monotonic()
    chisep("run", str(raw), f"--output={output}", "--verbose")
    seconds = time.monotonic() - start
    gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    truth = {key: load(map_path(raw / "derivatives" / "truth", SCAN, key)) for key in TRUE}
    found = {key: load(map_path(output, SCAN, key)) for key in TRUE}
    image = nib.Nifti1Image.from_filename(map_path(output, SCAN, keys.MASK))
    inside = found[keys.MASK] > 0.5
    brain = truth[keys.MASK] > 0.5
    deep = ndimage.distance_transform_edt(brain, sampling=image.header.get_zooms()[:3]) > DEPTH_MM
    both = deep & inside
    error = (found[keys.LOCAL_FIELD] - truth[keys.LOCAL_FIELD])[both]
    error = error - error.mean()  # the mean of a field is that of the reference frequency
    rms, sd = float(np.sqrt((error**2).mean())), float(truth[keys.LOCAL_FIELD][both].std())
    print(f"\n## {name}: {voxel_size} mm, {' x '.join(map(str, inside.shape))} voxels\n")
    print("| what | value | target |\n|---|---|---|")
    print(f"| wall time of `chisep run`, s | {seconds:.0f} | 300 |")
    print(f"| largest memory so far, GiB | {gib:.1f} | 8 |")
    overlap = 2 * (inside & brain).sum() / (inside.sum() + brain.sum())
    print(f"| Dice of the mask | {overlap:.3f} | – |")
    print(f"| share of the brain deeper than 3 mm that is in the mask, % | {100 * both.sum() / deep.sum():.1f} | – |")
    print(f"| local field, RMS error deeper than 3 mm, ppm | {rms:.5f} | 0.003 |")
    print(f"| the same, % of the field's SD | {100 * rms / sd:.1f} | 25 |")
    for key in (keys.R2STAR, keys.R2, keys.R2PRIME):
        bias = region_bias_percent(found[key], truth[key], truth[keys.REGIONS], inside)
        worst = max(bias, key=lambda region: abs(bias[region]))
        target = 3 if key != keys.R2PRIME else "–"
        print(f"| {key}, worst median bias of a region, % | {bias[worst]:+.1f} ({worst}) | {target} |")
    compare_with_true_field(name, work, output, truth, found, inside)


TRUE = (
    keys.MASK,
    keys.REGIONS,
    keys.LOCAL_FIELD,
    keys.R2STAR,
    keys.R2,
    keys.R2PRIME,
    keys.CHI_PARA,
    keys.CHI_DIA,
)


def compare_with_true_field(
    name: str, work: Path, output: Path, truth: dict[str, NDArray], found: dict[str, NDArray], inside: NDArray
) -> None:
    """Print NRMSE of both sources, from the raw data and from the true local field."""
    record = json.loads((output / SCAN / "run.json").read_text(encoding="utf-8"))
    image = nib.Nifti1Image.from_filename(map_path(output, SCAN, keys.LOCAL_FIELD))
    field = work / f"field_{name}.nii.gz"
    nib.save(nib.Nifti1Image(truth[keys.LOCAL_FIELD] * inside, image.affine), field)
    best = work / f"best_{name}"
    chisep(
        "reconstruct",
        f"--local_field={field}",
        "--field_unit=ppm",
        f"--r2prime={map_path(output, SCAN, keys.R2PRIME)}",
        f"--mask={map_path(output, SCAN, keys.MASK)}",
        f"--output={best}",
        f"--variant={record['separation']['variant']}",
    )
    within = inside & (truth[keys.MASK] > 0.5)
    for key in (keys.CHI_PARA, keys.CHI_DIA):
        raw, ideal = nrmse(found[key], truth[key], within), nrmse(load(best / f"{key}.nii.gz"), truth[key], within)
        print(f"| {key}, NRMSE, % (from the true local field) | {raw:.1f} ({ideal:.1f}) | {1.5 * ideal:.1f} |")


def main() -> None:
    """Print a table for each condition."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("bundle/runs/raw_to_maps"))
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    arguments = parser.parse_args()
    print(hardware("cpu"))
    for name in arguments.conditions:
        measure(name, arguments.work)


if __name__ == "__main__":
    main()
