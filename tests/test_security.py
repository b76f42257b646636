"""Nothing that may come from a stranger runs code, leaves its folder, or leaves something half-written.

Hostile images are in test_file_guard.py.
"""

import ast
import gzip
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import monai
import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from torch import nn

from custom_transforms import data, handlers, keys
from custom_transforms.bundle_path import bundle_path
from custom_transforms.cli import main
from custom_transforms.pipeline.command import _bids_name
from custom_transforms.pipeline.derivatives import RECORD, SUFFIXES, map_path, scan_path
from custom_transforms.report.html import write_report
from custom_transforms.report.html_maps import MapForReport
from custom_transforms.weights import load_weights

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("custom_transforms", "benchmarks", "integrations")
SOURCES = sorted(path for name in FOLDERS for path in (ROOT / name).rglob("*.py"))
SCRIPT = "<script>alert(1)</script>"


class Evil:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


def unsafe_calls(source: str) -> Iterator[int]:
    """Give the lines that may load pickles: torch.load without weights_only=True, pickle itself, numpy with pickles."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, options = ast.unparse(node.func), {o.arg: ast.unparse(o.value) for o in node.keywords}
        unsafe = name in ("torch.load", "load_torch") and options.get("weights_only") != "True"
        unsafe |= name.split(".")[0] in ("pickle", "joblib", "dill") and name.endswith(("load", "loads"))
        if unsafe or options.get("allow_pickle") == "True":
            yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sources_load_no_pickles(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not list(unsafe_calls(text))
    assert "from torch import load" not in text


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("torch.load(path)", 1),
        ("torch.load(path, weights_only=False)", 1),
        ("torch.load(path, weights_only=flag)", 1),
        ("torch.load(path, map_location='cpu', weights_only=True)", 0),
        ("pickle.loads(text)", 1),
        ("np.load(path, allow_pickle=True)", 1),
        ("np.load(path)", 0),
    ],
)
def test_unsafe_calls_are_seen(line: str, count: int) -> None:
    assert len(list(unsafe_calls(line))) == count


@pytest.fixture(params=["pickle", "checkpoint"])
def evil(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """Write a file of weights that makes a folder when it is unpickled; give both."""
    path, mark = tmp_path / "last.pt", tmp_path / "mark"
    if request.param == "pickle":
        path.write_bytes(pickle.dumps({"model": Evil(mark)}, protocol=2))
    else:
        torch.save({"model": {"weight": torch.ones(2)}, "trainer": Evil(mark)}, path)
    return path, mark


def by_load_weights(path: Path, folder: Path) -> None:
    load_weights(nn.Linear(2, 2), path)


def by_resume(path: Path, folder: Path) -> None:
    parts = dict.fromkeys(("network", "optimizer", "lr_scheduler", "evaluator"))
    handlers.Checkpoints(directory=str(path.parent), **parts).resume(Engine(lambda engine, batch: None))


def by_pretrained(path: Path, folder: Path) -> None:
    """As train.json does it."""
    parser = ConfigParser(ConfigParser.load_config_file(bundle_path() / "configs" / "train.json"))
    parser.update({"pretrained": str(path), "channels": [4, 4, 8], "iterations": 1, "device": "cpu"})
    parser["step"] = next(line for line in parser["run"] if "@pretrained" in str(line))
    parser.get_parsed_content("step")


def by_inference_config(path: Path, folder: Path) -> None:
    parser = ConfigParser(ConfigParser.load_config_file(bundle_path() / "configs" / "inference.json"))
    parser.update({"weights": str(path), "channels": [4, 4, 8], "iterations": 1, "device": torch.device("cpu")})
    parser.get_parsed_content("network")


def by_monai_bundle_load(path: Path, folder: Path) -> None:
    shutil.copytree(bundle_path() / "configs", folder / "evil" / "configs")
    (folder / "evil" / "models").mkdir()
    shutil.copy(path, folder / "evil" / "models" / "model.pt")
    monai.bundle.load("evil", bundle_dir=str(folder), workflow_type="inference")


@pytest.mark.parametrize(
    "load",
    [by_load_weights, by_resume, by_pretrained, by_inference_config, by_monai_bundle_load],
    ids=lambda load: load.__name__,
)
def test_weights_run_no_code(load: Callable[[Path, Path], None], evil: tuple[Path, Path], tmp_path: Path) -> None:
    path, mark = evil
    with pytest.raises(Exception) as refused:  # each in its own words
        load(path, tmp_path)
    said = " ".join(str(error) for error in _chain(refused.value))
    assert "not a weights file" in said or "Weights only load failed" in said
    assert not mark.exists()
    with suppress(RuntimeError):  # that it is no checkpoint is noticed too late
        torch.load(path, weights_only=False)
    assert mark.exists()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("command", ["reconstruct", "run"])
@pytest.mark.parametrize("content", [b"", gzip.compress(b"\0" * 400), b"no gzip", gzip.compress(bytes(2**24))])
def test_one_line_exit_code_2_and_nothing_written(
    files: dict[str, str], tmp_path: Path, command: str, content: bytes, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    hostile, output = tmp_path / "hostile.nii.gz", tmp_path / "maps"
    hostile.write_bytes(content)
    options = {"output": output, "device": "cpu", "mask": files[keys.MASK]}
    if command == "reconstruct":
        options |= {"local_field": files[keys.LOCAL_FIELD], "r2prime": hostile, "field_unit": "ppm"}
    else:
        options |= {"magnitude": hostile, "phase": hostile, "echo_times_s": "0.004,0.008", "b0_tesla": 3}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    monkeypatch.setattr(sys, "argv", ["chisep", command, *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capfd.readouterr().err
    assert (stop.value.code, said.count("\n")) == (2, 1), said
    assert str(hostile) in said
    assert not list(tmp_path.rglob("*.nii*")) or {path.name for path in tmp_path.rglob("*.nii*")} == {hostile.name}


NASTY = ["..", "../../x", "/etc/x", "sub-..", "sub-../..", "sub-01/../../x", "..%2f", "a\0b", "~", "-rf", "C:\\x", ""]


@pytest.mark.parametrize("label", NASTY)
def test_names_of_outputs_stay_in_their_folder(tmp_path: Path, label: str) -> None:
    output = tmp_path / "output"
    name = _bids_name("scan", label)
    assert name.isascii() and name.removeprefix("sub-").isalnum()
    for path in (map_path(output, name, key) for key in SUFFIXES):
        assert path.resolve().is_relative_to(output.resolve())
    assert scan_path(output, name, RECORD).resolve().is_relative_to(output.resolve())


@pytest.mark.parametrize(
    "field",
    ["../../secret/..nii.gz", "../.nii.gz", "sub-..nii.gz", "sub-.._localfield.nii.gz", "a/../../sub-x_y.nii.gz"],
)
def test_results_of_a_list_stay_in_their_folder(tmp_path: Path, field: str) -> None:
    """A list may name files outside; what is made of them lies in the output folder."""
    cases = [{keys.LOCAL_FIELD: str(tmp_path / "list" / field)}, {keys.LOCAL_FIELD: "sub-02_localfield.nii.gz"}]
    folders = data.CaseFolders(output_dir=str(tmp_path / "output"), name="chi_para", cases=cases)
    path = folders.filename(subject=cases[0][keys.LOCAL_FIELD])
    assert path.resolve().is_relative_to((tmp_path / "output").resolve())
    assert path.name == "chi_para.nii.gz"


def test_a_report_of_a_hostile_name_runs_no_script(tmp_path: Path, head: dict[str, np.ndarray]) -> None:
    """Names of subjects and files, notes and settings: all that a stranger's data set brings to the page."""
    path = tmp_path / "report.html"
    mask = head[keys.MASK].astype(np.float32)
    write_report(
        path,
        title=f"sub-{SCRIPT}",
        maps={keys.CHI_PARA: MapForReport(head[keys.CHI_PARA], "chi_para", unit="ppm", note=SCRIPT)},
        mask=mask,
        affine=np.eye(4),
        measured={"R2'": SCRIPT},
        provenance={"inputs": {"magnitude": {"path": f"/data/{SCRIPT}.nii.gz"}}, "vendor": SCRIPT},
        warnings=[f"the file {SCRIPT}.json says: <img src=x onerror=alert(1)>"],
    )
    html = path.read_text(encoding="utf-8")
    assert SCRIPT not in html
    assert "<img src=x" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 5


def test_configs_execute_python(tmp_path: Path) -> None:
    """Why SECURITY.md says that configs are trusted: this is what MONAI does by design."""
    mark = tmp_path / "mark"
    ConfigParser({"evil": f"$open({str(mark)!r}, 'w')"}).get_parsed_content("evil").close()
    assert mark.exists()
    assert "execute Python by design" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_the_preprocessing_of_the_bundle_checks_before_it_reads(tmp_path: Path, files: dict[str, str]) -> None:
    """inference.json refuses what would be read by a reader that nobody looked at, and a file that is cut."""
    parser = ConfigParser(ConfigParser.load_config_file(bundle_path() / "configs" / "inference.json"))
    parser.update({"datalist": [], "device": torch.device("cpu")})
    preprocessing = parser.get_parsed_content("preprocessing")
    preprocessing({key: files[key] for key in (keys.LOCAL_FIELD, keys.R2PRIME, keys.MASK)})
    np.save(tmp_path / "mask.npy", np.array([Evil(tmp_path / "mark")], dtype=object), allow_pickle=True)
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(Path(files[keys.MASK]).read_bytes()[:-50])
    assert nib.load(cut).shape  # its header is whole
    for path, words in ((tmp_path / "mask.npy", "store it as NIfTI"), (cut, "damaged")):
        with pytest.raises(RuntimeError) as refused:
            preprocessing({**files, keys.MASK: str(path)})
        assert words in " ".join(map(str, _chain(refused.value)))
    assert not (tmp_path / "mark").exists()


def test_the_audit_does_not_pass_what_it_cannot_find() -> None:
    """Without --strict, a package that the service does not know counts as one without weaknesses."""
    command = "pip-audit --strict --requirement constraints.txt"
    assert command in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert command in (ROOT / "Makefile").read_text(encoding="utf-8")
