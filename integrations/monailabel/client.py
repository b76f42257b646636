"""Send a case to the server and fetch its maps: `python client.py --help`. Needs requests and nibabel."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import requests

SOURCES = ("chi_para", "chi_dia", "chi_total")
TIMEOUT_S = 600


def stack_maps(paths: Sequence[str | Path], output: Path) -> None:
    """Write maps of one grid as one 4-D NIfTI file, float32, in their order: local field, R2' or R2*, mask.

    Raises:
        ValueError: the grids differ.
    """
    images = [nib.load(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape or not np.allclose(image.affine, images[0].affine, atol=1e-3):
            raise ValueError(f"{path} and {paths[0]} have different grids; resample one to the other")
    values = np.stack([image.get_fdata(dtype=np.float32) for image in images], axis=-1)
    nib.save(nib.Nifti1Image(values, images[0].affine), output)


def _answer(response: requests.Response) -> requests.Response:
    if not response.ok:
        raise RuntimeError(f"the server answers {response.status_code}: {response.text[:500]}")
    return response


def upload(server: str, path: Path, image: str) -> None:
    """Store a case on the server under a name that is not taken yet.

    Raises:
        RuntimeError: the server refuses it.
    """
    with path.open("rb") as file:
        _answer(
            requests.put(f"{server}/datastore/image", params={"image": image}, files={"file": file}, timeout=TIMEOUT_S)
        )


def infer(server: str, model: str, image: str, settings: Mapping[str, str | float]) -> bytes:
    """Separate the sources of a case, and give one map as the content of a .nii.gz file.

    Raises:
        RuntimeError: the server refuses it.
    """
    params = {"result_extension": ".nii.gz", **settings}
    arguments = {"image": image, "output": "image"}
    url = f"{server}/infer/{model}"
    return _answer(requests.post(url, params=arguments, data={"params": json.dumps(params)}, timeout=TIMEOUT_S)).content


def remove(server: str, image: str) -> None:
    """Delete a case on the server."""
    _answer(requests.delete(f"{server}/datastore/image", params={"id": image}, timeout=TIMEOUT_S))


def run(options: argparse.Namespace) -> None:
    """Upload, separate, fetch both sources and their difference, and delete the case."""
    server = options.server.rstrip("/")
    model = options.model or next(iter(_answer(requests.get(f"{server}/info/", timeout=TIMEOUT_S)).json()["models"]))
    names = ("field_unit", "field_sign", "echo_time_s", "rate_unit", "b0_tesla", "relaxivity_per_s_ppm", "reference")
    settings = {name: value for name in names if (value := getattr(options, name)) is not None}
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        case = Path(folder) / "case.nii.gz"
        stack_maps([options.local_field, options.rate, options.mask], case)
        upload(server, case, options.name)
    try:
        maps = {source: infer(server, model, options.name, {**settings, "source": source}) for source in SOURCES}
    finally:
        remove(server, options.name)
    for source, content in maps.items():
        (options.output / f"{source}.nii.gz").write_bytes(content)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--model", help="name of the pack; the server's first if not given")
    parser.add_argument("--name", default="case", help="what the case is called on the server")
    parser.add_argument("--local_field", type=Path, required=True)
    parser.add_argument("--rate", type=Path, required=True, help="R2', or R2* for a variant that takes it")
    parser.add_argument("--mask", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of the maps")
    parser.add_argument("--field_unit", choices=("ppm", "hz", "rad"), required=True)
    parser.add_argument("--field_sign", type=int)
    parser.add_argument("--echo_time_s", type=float)
    parser.add_argument("--rate_unit", choices=("per_s", "per_ms"))
    parser.add_argument("--b0_tesla", type=float)
    parser.add_argument("--relaxivity_per_s_ppm", type=float)
    parser.add_argument("--reference", choices=("none", "csf", "brain"))
    try:
        run(parser.parse_args())
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(f"client.py: error: {error}")


if __name__ == "__main__":
    main()
