"""The model card of a packed bundle, in the Model Zoo's headings, made of the documentation that is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from monai.bundle import ConfigParser

from custom_transforms.bundle_path import bundle_path
from custom_transforms.checks import RATE_NAMES
from custom_transforms.keys import R2PRIME, R2STAR
from custom_transforms.variants import DEFAULT, variant_path

HEADINGS = (
    "Authors",
    "Tags",
    "Model Description",
    "Data",
    "Preprocessing",
    "Performance",
    "Additional Usage Steps",
    "System Configuration",
    "Limitations",
    "Citation",
    "References",
)
"""The sections of the Model Zoo's template."""

_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)[^)]*\)")
_LINK_OUTWARDS = re.compile(r"(?<!!)\[([^\]]+)\]\((?:\.\./)[^)]*\)")

_PACKAGE = """
The package `custom_transforms` lies in this folder, so chisep need not be installed; what else is needed is named in
`configs/metadata.json`.
"""
_RUN = """
From this folder,

    export PYTHONPATH=$PWD
    python -m monai.bundle run --config_file configs/inference.json --dataset_dir DATASET --output_dir maps

writes `chi_para`, `chi_dia` and `chi_total` (ppm, float32 NIfTI) of every case of a BIDS derivative:
`sub-*/anat/*_localfield.nii.gz` in ppm, `*_{suffix}.nii.gz` in 1/s, `*_desc-brain_mask.nii.gz` ([data.md](data.md)).
Other units, field strengths and relaxivities are top-level names of the config, such as `--field_unit hz --b0_tesla 7`.
"""
_SERVE = """
`configs/inference.json` is that for servers: MONAI Label hands it one 4-D NIfTI file a case, with the channels local
field, R2' or R2* and mask in the order of its `maps`, and gets one map back.
"""
_LOAD = """
In Python, with this folder on the path and the folder that holds it as `PARENT`:

    network = monai.bundle.load("{folder}", bundle_dir=PARENT, workflow_type="inference").eval()

and without any package, TorchScript, which takes the geometry as inputs:

    network, metadata, _ = monai.bundle.load("{folder}", bundle_dir=PARENT, load_ts_module=True)
    chi = network(image, voxel_size_mm, b0_direction, relaxivity_weights)

Training and evaluation, on simulated data or your own, with `PYTHONPATH` set to this folder:

    python -m monai.bundle run training --config_file configs/train.json
    python -m monai.bundle run evaluating --config_file "['configs/train.json','configs/evaluate.json']"
"""
_MORE = (
    "More about it, beside the other networks, is in [variants.md](variants.md). The equations and conventions are in "
    "[physics.md](physics.md)."
)
_SIMULATED = "- Trained and tested on simulations alone. Nobody has compared it with histology or with patients' scans."
_ONE_GEOMETRY = (
    "- It knows one geometry, 1 mm isotropic voxels and B0 along the third axis. `configs/inference.json` resamples "
    "every other volume there and back, which costs accuracy; `models/model.ts` refuses it."
)
_PREDICTED_R2PRIME = (
    "- R2' is predicted from R2*, not measured: where R2 is unusual, both sources are off by the same amount."
)
_NO_DEVICE = "- Not a medical device."


def _sections(text: str) -> dict[str, str]:
    """Split a Markdown text at its headings of the second level; what stands before the first is called ""."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return {"": parts[0].strip(), **{name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}}


def _rows(table: str, name: str) -> list[str]:
    """Take the rows of a variant out of a table: its own, and those below it whose first cell is empty."""
    rows, inside = [], False
    for line in table.splitlines():
        first = re.search(r"\w+", line.strip("|").split("|")[0])
        inside = first[0] == name if first else inside and line.startswith("|")
        rows += [line] if inside else []
    if not rows:
        raise ValueError(
            f"expected a row of {name} in the table of docs/variants.md that begins {table[:60]!r}; add it"
        )
    return rows


def _table(section: str, names: tuple[str, ...]) -> str:
    """Take the head of the first table of a section, and the rows of some variants."""
    lines = section.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("|"))
    end = next((i for i, line in enumerate(lines[head:], head) if not line.startswith("|")), len(lines))
    table = "\n".join(lines[head:end])
    return "\n".join([*lines[head : head + 2], *(row for name in names for row in _rows(table, name))])


def _own_paragraphs(performance: str, name: str) -> str:
    """Take what the default's card says of another variant: a paragraph that begins with its name, and two after it."""
    parts = performance.split("\n\n")
    return "\n\n".join(next((parts[i : i + 3] for i, part in enumerate(parts) if part.startswith(f"`{name}` ")), []))


def _describe_results(default: Mapping[str, str], variants: Mapping[str, str], name: str) -> dict[str, str]:
    """Say what a variant was trained on and what came out."""
    if own := _own_paragraphs(default["Performance"], name):  # trained like the default, and compared with it
        return {"Data": default["Data"].split("\n### ")[0].strip(), "Performance": own}
    training, heads = variants["Shipped weights"], variants["All on the same heads"]
    return {
        "Data": "Simulated while training: no patient data ([data.md](data.md)).\n\n### Training\n\n"
        + training.split("\n|")[0].strip()
        + f"\n\n{_table(training, (name,))}",
        "Performance": heads.split("\n|")[0].strip() + f"\n\n{_table(heads, ('closed_form', name))}",
    }


def _describe_variant(default: Mapping[str, str], name: str, description: str) -> dict[str, str]:
    """Give the sections in which the card of a variant differs from that of the default."""
    text = (bundle_path() / "docs" / "variants.md").read_text(encoding="utf-8")
    variants, patch = _sections(text), ConfigParser.load_config_file(variant_path(name))
    same = "the same" in _table(variants[""], (name,))  # as that of whose name its own is a longer form
    parents_first = (name.rsplit("_", 1)[0], name) if same else (name,)
    limits = [_SIMULATED, *([_ONE_GEOMETRY] if "trained_voxel_size_mm" in patch else [])]
    limits += [_PREDICTED_R2PRIME] if patch.get("rate") == R2STAR else []
    return {
        "": f"# Model Overview\n\n{description}",
        "Tags": default["Tags"].replace(", unrolled network", ""),
        "Model Description": f"{_table(variants[''], parents_first)}\n\n{_MORE}",
        "Preprocessing": default["Preprocessing"].replace(
            "R2' in 1/s", f"{RATE_NAMES[patch.get('rate', R2PRIME)]} in 1/s"
        ),
        "Limitations": "\n".join([*limits, _NO_DEVICE]),
        **_describe_results(default, variants, name),
    }


def model_card(name: str, *, folder: str, description: str, suffix: str, label: bool = False) -> str:
    """Write the model card of a variant.

    Args:
        name: of the variant.
        folder: name of the packed bundle.
        description: one paragraph, that of its metadata.
        suffix: of the file that its second channel is read from, such as "R2primemap".
        label: its inference.json takes one 4-D file a case.

    Returns:
        Markdown, with links to files of ``docs/`` alone.

    Raises:
        ValueError: the documentation says nothing about the variant.
    """
    sections = _sections((bundle_path() / "docs" / "README.md").read_text(encoding="utf-8"))
    if name != DEFAULT:
        sections |= _describe_variant(sections, name, description)
    usage = (_PACKAGE, _SERVE if label else _RUN, _LOAD)
    sections["Additional Usage Steps"] = "\n\n".join(usage).format(folder=folder, suffix=suffix)
    card = "\n\n".join([sections[""], *(f"## {heading}\n\n{sections[heading]}" for heading in HEADINGS)])
    return re.sub(r"\n{3,}", "\n\n", card).strip() + "\n"


def write_documents(folder: Path, card: str) -> None:
    """Write a model card, and beside it every document and figure that it links to, directly or not.

    Links out of the documentation, into the project, become plain words.

    Args:
        folder: `docs` of the packed bundle.
        card: Markdown.
    """
    source, waiting = bundle_path() / "docs", ["README.md", "data_license.txt"]
    folder.mkdir(parents=True)
    for name in waiting:  # grows
        path = source / name
        if path.suffix != ".md":
            (folder / name).write_bytes(path.read_bytes())
            continue
        text = card if name == "README.md" else path.read_text(encoding="utf-8")
        text = _LINK_OUTWARDS.sub(r"\1", text)
        (folder / name).write_text(text, encoding="utf-8")
        waiting += [found for found in _LINK.findall(text) if (source / found).is_file() and found not in waiting]
