"""`chisep export` writes what it says, and refuses mistakes in one line with exit code 2."""

import sys
from pathlib import Path

import pytest
import torch

from custom_transforms import cli
from custom_transforms.deploy import export as command


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process; give the exit code."""
    monkeypatch.setattr(sys, "argv", ["chisep", "export", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_torchscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "qsmnet.ts"
    options = ("--variant", "qsmnet", "--format", "torchscript", "--output", str(output))
    assert run(monkeypatch, *options) == 0
    assert capsys.readouterr().out.strip() == str(output)
    assert torch.jit.load(output)(torch.ones(1, 3, 8, 8, 8)).shape == (1, 2, 8, 8, 8)
    output.write_bytes(b"an older file")
    assert run(monkeypatch, *options) == 0
    assert torch.jit.load(output)(torch.ones(1, 3, 8, 8, 8)).shape == (1, 2, 8, 8, 8)
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "qsmnet.ts"]


def test_onnx_gets_its_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple] = []
    monkeypatch.setattr(command, "export_onnx", lambda name, path, *, shape: calls.append((name, path, shape)))
    output = tmp_path / "model.onnx"
    assert run(monkeypatch, "--format", "onnx", "--output", str(output), "--shape", "16,18,20") == 0
    assert calls == [("unrolled", output, (16.0, 18.0, 20.0))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onnx", "--output", "a.onnx"], "--format onnx needs --shape X,Y,Z"),
        (["--format", "torchscript", "--output", "a.ts", "--shape", "16,16,16"], "leave out --shape"),
        (["--format", "onnx", "--output", "a.onnx", "--shape", "16,16"], "expected 3 numbers"),
        (["--format", "onnx", "--output", "a.onnx", "--shape", "16,16,4"], "three whole numbers from 8 on"),
        (["--format", "onnx", "--output", "a.onnx", "--shape", "16,16,16.5"], "got 16,16,16.5"),
        (["--format", "onnx", "--output", "a.ts", "--shape", "16,16,16"], "must end in .onnx, got 'a.ts'"),
        (["--format", "torchscript", "--output", "a.pt"], "must end in .ts, got 'a.pt'"),
        (["--format", "keras", "--output", "a.ts"], "expected torchscript or onnx, got 'keras'"),
        (["--format", "torchscript", "--output", "a.ts", "--variant", "unroled"], "there is no variant 'unroled'"),
        (["--format", "torchscript", "--output", "a.ts", "--variant", "tkd"], "'tkd' is a conventional method"),
        (["--format", "torchscript", "--output", "."], "is a folder; name a file"),
    ],
)
def test_mistakes_are_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
