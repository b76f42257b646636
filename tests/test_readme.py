"""Every command and Python block of README.md is executed, on data of some voxels, or is tested elsewhere by name.

Commands are the lines of code blocks, and in the text and in tables whatever stands in backticks and looks like one.
They are executed as they stand, in a folder where the files they name lie, except for RULES: those make them quick. One
that neither a rule executes nor ELSEWHERE lists fails the test.
"""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom_transforms import keys
from custom_transforms.cli import main
from custom_transforms.data import BIDS_SUFFIXES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = ("chisep", "python", "torchrun", "make", "mlflow", "tensorboard", "pip-audit")
FILES = "--local_field field.nii.gz --field_unit hz --r2prime r2prime.nii.gz --mask mask.nii.gz --output any"
TINY = {
    "volume_shape": "[16,16,16]",
    "max_epochs": "1",
    "epoch_length": "1",
    "val_interval": "1",
    "val_length": "1",
    "batch_size": "1",
    "device": "cpu",
}
SMALL = {"channels": "[4,4,8]", "iterations": "2"}
COARSE = {"voxel_size": "6,6,6", "subjects": "2"}
HZ_PER_PPM = 127.7
_PLAIN_WORDS = 7  # of the training without options


@dataclass(frozen=True)
class Rule:
    """How a command becomes quick.

    Attributes:
        pattern: what it begins with.
        options: replace those of the command, and are added where it has none.
        words: replaced in the command.
        slow: it takes longer than some seconds all the same.
    """

    pattern: str
    options: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    slow: bool = False


RULES = (
    Rule(r"chisep run BIDS_OR_DICOM_FOLDER", {"regions": "False", "register_spin_echo": "False"}, slow=True),
    Rule(r"chisep run --magnitude", {"regions": "False", "refine": "False"}),
    Rule(r"chisep reconstruct --variant tv \.\.\.", words={"...": FILES.replace("--r2prime r2prime.nii.gz ", "")}),
    Rule(r"chisep reconstruct --variant \w+ \.\.\.", words={"...": FILES}),
    Rule(r"chisep reconstruct "),
    Rule(r"chisep simulate-raw ", {"voxel_size": "4,4,4"}, slow=True),
    Rule(r"chisep simulate (?!.*--orientations)", COARSE, {"my_dataset": "simulated"}, slow=True),
    Rule(r"chisep evaluate ", {"dataset_dir": "my_dataset", "variants": "closed_form", "device": "cpu"}),
    Rule(r"chisep benchmark ", {"variants": "closed_form", "device": "cpu"}, slow=True),
    Rule(r"chisep (version|bundle-path)$"),
    Rule(r"python -m monai\.bundle run training --config_file configs/train\.json.*--pretrained", TINY),
    Rule(r"python -m monai\.bundle run training --config_file configs/train\.json", {**TINY, **SMALL}),
    Rule(r"python -m monai\.bundle run (export|evaluating) ", {**TINY, **SMALL}),
    Rule(r"python -m monai\.bundle run --config_file configs/inference\.json", {**SMALL, "device": "cpu"}),
)
ELSEWHERE = {
    r".*configs/quick\.json": ("a minute", "bundle/test_training.py::test_quick_run_from_another_folder_lowers"),
    r".*configs/variants/qsmnet\.json": ("large network", "bundle/test_variants.py::test_training_and_export"),
    r"chisep simulate .*--orientations": ("minutes", "test_cohort.py::test_lists_share_no_subject"),
    r"chisep labels ": ("minutes", "test_labels.py::test_labels_are_near_the_truth"),
    r"chisep reproduce thesis": ("days", "reproduce/test_thesis.py::test_miniature"),
    r"chisep reproduce papers": ("hours", "reproduce/test_papers.py::test_page_tables_and_figures"),
    r"python benchmarks/scoreboard\.py": ("hours", "benchmark/test_scoreboard.py::test_page"),
    r"chisep demo": ("minutes", "test_demo.py::test_"),
    r"chisep pack ": ("minutes", "deploy/test_pack.py::test_without_chisep"),
    r"chisep export .*onnx": ("minutes", "deploy/test_onnx.py::test_"),
    r"chisep export ": ("minutes", "deploy/test_export.py::test_torchscript"),
    r".*--tracking mlflow|mlflow |tensorboard ": ("a server", "bundle/test_tracking.py::test_mlflow_tracks"),
    r"torchrun |.*multi_gpu": ("several processes", "bundle/test_multi_process.py::test_training_validates_once"),
    r"python integrations/monailabel/": ("a server", "integrations/test_monailabel.py::test_served_maps"),
    r"python integrations/monai_deploy/": ("another package", "integrations/test_monai_deploy.py::test_the_graph"),
    r"pip-audit ": ("a service that machines may not reach", "test_security.py::test_the_audit_does_not_pass"),
    r"python -m pytest|python tests/doors\.py": ("the tests themselves", "test_doors.py::test_outcomes_are_counted"),
}


def clean(line: str) -> str:
    """Strip a prompt, a comment and what surrounds them."""
    return re.sub(r"\s+#\s.*$", "", line).strip().removeprefix("$ ").removeprefix(".venv/bin/").strip()


def code_blocks(text: str) -> list[tuple[str, list[str]]]:
    """Give language and lines of every code block, fenced or indented; lines that go on are joined."""
    text = text.replace("\\\n", " ")
    fenced = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
    blocks = [(language, body.splitlines()) for language, body in fenced.findall(text)]
    indented = re.compile(r"(?:^ {4}\S.*\n?)+", flags=re.MULTILINE)
    return blocks + [("", found.splitlines()) for found in indented.findall(fenced.sub("", text))]


def commands_of(text: str) -> list[str]:
    """Give the commands in the order of the text; lines of options alone belong to the training above them."""
    found = []
    for language, lines in code_blocks(text):
        for line in map(clean, lines if language != "python" else []):
            if line.startswith("--"):
                chosen = "" if line.startswith("--config_file") else "--config_file configs/train.json "
                line = f"python -m monai.bundle run training {chosen}{line}"
            found += [line] if line and not line.startswith(("cd ", "#")) else []
    prose = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    found += [clean(span) for span in prose if re.match(rf"({'|'.join(PROGRAMS)}) (.*--|\w+$)", clean(span))]
    names = re.compile(r"chisep [a-z-]+")  # `chisep run` in the text names it
    return list(dict.fromkeys(span for span in found if not names.fullmatch(span) or rule_of(span)))


def rule_of(command: str) -> Rule | None:
    return next((rule for rule in RULES if re.match(rule.pattern, command)), None)


def elsewhere(command: str) -> str | None:
    """Give the test that covers a command instead."""
    return next((test for pattern, (_, test) in ELSEWHERE.items() if re.match(pattern, command)), None)


def quick(command: str, rule: Rule) -> list[str]:
    """Give the arguments of a command, made quick."""
    for word, replacement in rule.words.items():
        command = command.replace(word, replacement)
    arguments = shlex.split(command)
    for name, value in rule.options.items():
        if f"--{name}" in arguments:
            arguments[arguments.index(f"--{name}") + 1] = value
        else:
            arguments += [f"--{name}", value]
    if "training" in arguments and "--output_dir" not in arguments and len(command.split()) > _PLAIN_WORDS:
        arguments += ["--output_dir", f"runs/{len(command)}"]  # a run of its own, as the plain one has finished
    return arguments


def run_quickly(command: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Execute a command in this process, which has imported what it needs."""
    program, *arguments = quick(command, rule_of(command))
    in_bundle = "configs/" in command
    patch.chdir(folder / "bundle" if in_bundle else folder)
    patch.setattr(sys, "argv", [program, *arguments])
    try:
        if program == "chisep":
            main()
        else:
            assert (program, arguments[0]) == ("python", "-m"), command
            patch.setattr(sys, "argv", arguments[1:])
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        assert not stop.code, f"{command} ended with {stop.code}"


@pytest.fixture(scope="module")
def folder(head: dict[str, np.ndarray], oblique_affine: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with all files that README names."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "bundle", folder / "bundle", ignore=shutil.ignore_patterns("runs", "docs"))
    field_hz, mask = HZ_PER_PPM * head[keys.LOCAL_FIELD], head[keys.MASK]
    times_s = np.array([0.004, 0.008, 0.012])
    ramp = np.linspace(0, 12, len(field_hz))[:, None, None, None]  # so that it wraps
    phase = 2 * np.pi * field_hz[..., None] * times_s + ramp
    volumes = {
        "field": field_hz,
        "r2prime": head[keys.R2PRIME],
        "r2star": head[keys.R2STAR],
        "mask": mask,
        "mag": 100 * mask[..., None] * np.exp(-head[keys.R2STAR][..., None] * times_s) + 1,
        "phase": np.angle(np.exp(1j * phase)),
    }
    for name, values in volumes.items():
        nib.save(nib.Nifti1Image(values.astype(np.float32), oblique_affine), folder / f"{name}.nii.gz")
    for subject in ("sub-01", "sub-02"):
        for key in (keys.LOCAL_FIELD, keys.R2PRIME, keys.MASK, keys.CHI_PARA, keys.CHI_DIA):
            path = folder / "bundle" / "my_dataset" / subject / "anat" / f"{subject}_{BIDS_SUFFIXES[key]}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(head[key][6:22, 6:22, 4:20], oblique_affine), path)
    (folder / "my_dataset").symlink_to(folder / "bundle" / "my_dataset")
    return folder


COMMANDS = commands_of(README)


def test_every_command_is_executed_or_tested_elsewhere() -> None:
    unknown = [c for c in COMMANDS if not (c.startswith("make ") or rule_of(c) or elsewhere(c))]
    assert not unknown, f"add a rule, or name the test that covers it: {unknown}"
    assert len(COMMANDS) > 20
    for test in filter(None, map(elsewhere, COMMANDS)):
        file, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test


def test_make_targets_exist() -> None:
    targets = [command.split()[1] for command in COMMANDS if command.startswith("make ")]
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)
    assert subprocess.run(["make", "-n", "nothing"], cwd=ROOT, check=False, capture_output=True).returncode


@pytest.mark.filterwarnings("default")
@pytest.mark.timeout(900)
def test_quick_commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, as some need what others make."""
    executed = [c for c in COMMANDS if not elsewhere(c) and (rule := rule_of(c)) and not rule.slow]
    for command in executed:
        print(command)
        run_quickly(command, folder, monkeypatch)
    assert len(executed) > 10
    maps = ("maps/chi_para.nii.gz", "any/chi_total.nii.gz", "bundle/maps/sub-01/chi_para.nii.gz")
    made = (*maps, "bundle/runs", "scores")
    assert not [name for name in made if not (folder / name).exists()]


@pytest.mark.doors
@pytest.mark.filterwarnings("default")
@pytest.mark.timeout(900)
def test_slow_commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulated raw head, which is the raw folder of another command."""
    slow = sorted((c for c in COMMANDS if (rule := rule_of(c)) and rule.slow), key=lambda c: "simulate" not in c)
    for command in slow:
        run_quickly(command, folder, monkeypatch)
        if (folder / "raw").is_dir() and not (folder / "BIDS_OR_DICOM_FOLDER").exists():
            (folder / "BIDS_OR_DICOM_FOLDER").symlink_to(folder / "raw")
    assert (folder / "maps" / "sub-01" / "report.html").is_file()


@pytest.mark.filterwarnings("default")
def test_python_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = ["\n".join(lines) for language, lines in code_blocks(README) if language == "python"]
    assert blocks
    monkeypatch.chdir(ROOT)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_a_new_command_is_noticed() -> None:
    text = "Text `chisep run`, `chisep nothing --now`\n\n    chisep other a.nii  # why\n"
    text += "\n```bash\npython x.py \\\n  --b\n```\n"
    assert commands_of(text) == ["python x.py    --b", "chisep other a.nii", "chisep nothing --now"]
    assert not any(rule_of(command) or elsewhere(command) for command in commands_of(text))
    table = "| load | `chisep pack --variant a --output b` | 1.6.1 |\n"
    assert commands_of(table) == ["chisep pack --variant a --output b"]


@pytest.mark.parametrize("command", ["chisep reconstruct --r2prime none.nii.gz", "python -m monai.bundle run training"])
def test_a_command_that_fails_is_noticed(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Callable
) -> None:
    monkeypatch.setitem(globals(), "RULES", (Rule("chisep"), Rule("python")))
    with pytest.raises((AssertionError, TypeError)):
        run_quickly(command, folder, monkeypatch)
