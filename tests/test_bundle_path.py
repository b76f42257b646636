from pathlib import Path

import pytest

from custom_transforms import bundle_path as module


def use_candidates(monkeypatch: pytest.MonkeyPatch, root: Path) -> tuple[Path, Path]:
    candidates = (root / "bundle", root / "custom_transforms" / "_bundle")
    monkeypatch.setattr(module, "_CANDIDATES", candidates)
    return candidates


def test_checkout() -> None:
    assert module.bundle_path() == Path(__file__).resolve().parents[1] / "bundle"


def test_checkout_comes_before_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checkout, packaged = use_candidates(monkeypatch, tmp_path)
    (packaged / "configs").mkdir(parents=True)
    assert module.bundle_path() == packaged
    (checkout / "configs").mkdir(parents=True)
    assert module.bundle_path() == checkout


def test_folder_without_configs_is_no_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in use_candidates(monkeypatch, tmp_path):
        folder.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="reinstall chisep"):
        module.bundle_path()
