"""What each knob of the training distribution costs the default network: a row for each knob, a column for each file.

The same warped anatomy is measured in every row, with the same noise: 1 mm, axial, SNR 100, the usual echoes, a single
relaxivity, no lesions or vessels, no error. Then one knob is turned on, in every volume, with the range that train.json
gives it. Weights that were trained without the knobs show what each of them costs such a network, those trained with
them what is left of it. What a knob is worth in training shows a network trained without this one alone, by the
commands that --train-without prints.

As in training, half of the volumes keep isotropic voxels, or a single relaxivity, where these are the knob. Other
voxels see other parts of the same heads. Labels under relaxivity_mismatch are what can be read with the wrong
relaxivity. Lesions and vessels raise what the error is divided by, so that the NRMSE can fall.
Residual background and mask errors need the edge of the brain, which crops of less than about 64 mm seldom have.

Usage: python benchmarks/ablation.py [--weights [NAME=]FILE ...] [--volumes 12] [--volume 64] [--device cpu|cuda]
    python benchmarks/ablation.py --train-without KNOB
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from custom_transforms import keys
from custom_transforms.bundle_path import bundle_path
from custom_transforms.metrics import nrmse_percent
from custom_transforms.phantom.random_draws import Draws
from custom_transforms.physics import RELAXIVITY_3T_PER_S_PPM, r2prime_per_s_to_ppm
from custom_transforms.provenance import hardware
from custom_transforms.variants import DEFAULT, inference_config
from custom_transforms.weights import read_state_dict

SEED = 8000  # of the volumes; neither training nor the other scripts take it
TRAINED = None  # as in train.json
IMPERFECTIONS = (
    "anisotropic_white_matter",
    "relaxivity_mismatch",
    "residual_background",
    "mask_errors",
    "motion_blur",
    "r2_error",
)
IDEAL: dict[str, Any] = {
    "anatomy::voxel_size_mm": [1.0, 1.0],
    "anatomy::slice_ratio": 1.0,
    "anatomy::tilt_deg": 0.0,
    "snr": [100.0, 100.0],
    "simulation::echoes::number": [5, 5],
    "simulation::echoes::first_ms": [5.0, 5.0],
    "simulation::echoes::spacing_ms": [6.0, 6.0],
    "simulation::echoes::reweightings": [3, 3],
    "relaxivity_split": 0.0,
    **{f"simulation::{step}::probability": 0.0 for step in IMPERFECTIONS},
    "lesions::probability": 0.0,
    "vessels::number": 0,
}
"""Settings of train.json for a measurement without any knob."""

NONE = "none"
KNOBS: dict[str, dict[str, Any]] = {
    NONE: {},
    "voxel_size": {"anatomy::voxel_size_mm": TRAINED, "anatomy::slice_ratio": TRAINED},
    "tilt": {"anatomy::tilt_deg": TRAINED},
    "snr_20": {"snr": [20.0, 20.0]},
    "snr_300": {"snr": [300.0, 300.0]},
    "echoes": {name: TRAINED for name in IDEAL if name.startswith("simulation::echoes")},
    "split_relaxivity": {"relaxivity_split": TRAINED},
    **{step: {f"simulation::{step}::probability": 1.0} for step in IMPERFECTIONS},
    "lesions": {"lesions::probability": 1.0},
    "vessels": {"vessels::number": TRAINED},
}
"""Settings that each row changes."""


def training_config(knob: str, size: int) -> ConfigParser:
    """Give train.json with one knob on, for volumes of size^3 voxels, on the CPU."""
    config = ConfigParser()
    config.read_config(bundle_path() / "configs" / "train.json")
    fixed = {
        "device": "$torch.device('cpu')",  # so that the volumes are the same everywhere
        "volume_shape": [size] * 3,
        "anatomy::edge_voxels": [0.45, 0.45],  # drawn after the vessels, which shift what comes next
    }
    settings = fixed | IDEAL | KNOBS[knob]
    config.update({name: value for name, value in settings.items() if value is not TRAINED})
    return config


def _draws(*words: int, purpose: str) -> Draws:
    state = np.random.SeedSequence([*words, *purpose.encode()]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
    return Draws(1, generator, torch.device("cpu"))


def simulate(config: ConfigParser, number: int) -> Iterator[dict[str, Tensor]]:
    """Make volumes; every step has its own random numbers, so that one step changes nothing in the others.

    Args:
        config: of the row.
        number: how many.

    Yields:
        image (1, 3, X, Y, Z) and label (1, 2, X, Y, Z) in ppm, mask (1, 1, X, Y, Z), and the geometry.
    """
    phantom, simulation = (config.get_parsed_content(name) for name in ("anatomy", "simulation"))
    for index in range(number):
        maps = phantom(1, _draws(SEED, index, purpose="anatomy").generator)
        for name, step in simulation.items():
            if callable(step):
                maps = step(maps, _draws(SEED, index, purpose=name))
        rate_ppm, mask = r2prime_per_s_to_ppm(maps[keys.R2PRIME], RELAXIVITY_3T_PER_S_PPM), maps[keys.MASK]
        yield {
            keys.IMAGE: torch.cat([maps[keys.LOCAL_FIELD], rate_ppm, mask], dim=1),
            keys.LABEL: mask * torch.cat([maps[keys.CHI_PARA], maps[keys.CHI_DIA]], dim=1),
            keys.MASK: mask,
            **{name: maps[name] for name in keys.GEOMETRY},
        }


def read_network(file: str, device: torch.device) -> nn.Module:
    """Build the default network with the weights of a file, those of version 0.3 included, in eval mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    state = read_state_dict(file)
    try:
        regularisation = state["log_regularisation"].reshape(len(state["prior_gain"]), -1)  # 0.3: (iterations,)
        channels = len(next(value for name, value in state.items() if name.endswith("output_block.conv.conv.bias")))
        config = inference_config(DEFAULT, device=device)
        config.update({"weights": False, "physics_steps": regularisation.shape[1]})
        config.update({"network_def::backbone::out_channels": channels})
        network: nn.Module = config.get_parsed_content("network").eval()
        network.load_state_dict(state | {"log_regularisation": regularisation})
    except (KeyError, StopIteration, RuntimeError) as error:
        raise ValueError(f"{file} does not hold the weights of the default network; name another file") from error
    return network


def errors_percent(network: nn.Module, volume: dict[str, Tensor], device: torch.device) -> Tensor:
    """Give the NRMSE of both sources in percent, (2,)."""
    image, label, mask, *geometry = (
        volume[name].to(device) for name in (keys.IMAGE, keys.LABEL, keys.MASK, *keys.GEOMETRY)
    )
    with torch.inference_mode():
        return nrmse_percent(network(image, *geometry), label, mask)[0].cpu()


def cells(errors: Tensor, ideal: Tensor) -> list[str]:
    """Write the mean of errors (volumes, 2), and their change from the ideal ones with its standard error."""
    change = errors - ideal
    standard_error = change.std(dim=0) / len(change) ** 0.5
    changes = [f"{m:+.1f} ± {s:.1f}" for m, s in zip(change.mean(dim=0).tolist(), standard_error.tolist(), strict=True)]
    return [" / ".join(f"{value:.1f}" for value in errors.mean(dim=0).tolist()), " / ".join(changes)]


def describe(knob: str, config: ConfigParser) -> str:
    """Name a row, with the ranges that it takes from train.json."""
    ranges = [f"{name.split('::')[-1]} {config[name]}" for name, value in KNOBS[knob].items() if value is TRAINED]
    return f"{knob}: {', '.join(ranges)}" if ranges else knob


def training_commands(knob: str) -> list[str]:
    """Give the commands that train without a knob and export the weights, to be run in the bundle's folder."""
    ideal = {name: IDEAL[name] for name in KNOBS[knob]}
    ideal |= {name.replace("anatomy", "shapes"): value for name, value in ideal.items() if name.startswith("anatomy")}
    files = {"output_dir": f"./runs/without_{knob}", "export_path": f"./runs/without_{knob}/model.pt"}
    return [
        shlex.join(
            ["python", "-m", "monai.bundle", "run", workflow, "--config_file", "configs/train.json"]
            + [word for name, value in options.items() for word in (f"--{name}", str(value))]
        )
        for workflow, options in (("training", ideal | files), ("export", files))
    ]


def main() -> None:
    """Print a Markdown table, or commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = str(bundle_path() / "models" / "model.pt")
    parser.add_argument("--weights", nargs="+", default=[default], metavar="[NAME=]FILE")
    parser.add_argument("--volumes", type=int, default=12)
    parser.add_argument("--volume", type=int, default=64, help="voxels along each axis")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--train-without", choices=[name for name in KNOBS if name != NONE])
    arguments = parser.parse_args()
    if arguments.train_without:
        print("\n".join(training_commands(arguments.train_without)))
        return
    if arguments.volumes < 2:
        parser.error(f"--volumes: expected 2 or more, for a standard error; got {arguments.volumes}")
    device = torch.device(arguments.device)
    named = [weights.rpartition("=") for weights in arguments.weights]
    try:
        networks = {name or Path(file).stem: read_network(file, device) for name, _, file in named}
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    if len(networks) < len(named):
        parser.error("--weights: two files have the same name; tell them apart by NAME=FILE")
    print(f"{hardware(device)}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    print(
        f"{arguments.volumes} volumes of {arguments.volume}^3; NRMSE %, chi_para / chi_dia; change ± standard error\n"
    )
    print(f"| knob | {' | '.join(f'{name} | change' for name in networks)} |\n|---|" + "---|---|" * len(networks))
    ideal: dict[str, Tensor] = {}
    for row in KNOBS:
        config = training_config(row, arguments.volume)
        found: dict[str, list[Tensor]] = {name: [] for name in networks}
        for volume in simulate(config, arguments.volumes):
            for name, network in networks.items():
                found[name].append(errors_percent(network, volume, device))
        errors = {name: torch.stack(values) for name, values in found.items()}
        ideal = ideal or errors
        texts = [text for name in networks for text in cells(errors[name], ideal[name])]
        print(f"| {describe(row, config)} | {' | '.join(texts)} |", flush=True)


if __name__ == "__main__":
    main()
