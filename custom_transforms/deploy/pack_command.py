"""`chisep pack`: a self-contained bundle of a variant, as the Model Zoo, MONAI Label and MONAI Deploy take them."""

from __future__ import annotations

from pathlib import Path

from custom_transforms.deploy.pack import pack_bundle


def pack(
    *, output: str, variant: str = "unrolled", zip: bool = False, large_files: str | None = None, label: bool = False
) -> None:
    """Write a variant as a self-contained bundle that passes the Model Zoo's checks, and print its folder.

    Args:
        output: folder that will hold the pack, brain_mr_chi_separation_VARIANT.
        variant: a network, one of `configs/variants` that has weights.
        zip: write an archive beside it too.
        large_files: address of the folder where it will be published, for large_files.yml.
        label: one 4-D file a case, for MONAI Label.
    """
    print(pack_bundle(variant, Path(output), archive=zip, large_files=large_files, label=label))
