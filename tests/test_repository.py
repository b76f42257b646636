"""What holds for the repository as a whole: its files parse, stay small, agree with one another, name no machine."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from shutil import copy2

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE_BYTES = 25e6
MAX_REPOSITORY_BYTES = 40 * 2**20
TEXT_SUFFIXES = {"", ".py", ".md", ".txt", ".json", ".toml", ".cff", ".yaml", ".conf", ".html", ".css"}
MACHINE_PATH = re.compile(r"(?<![\w.~/}-])/(home|root|Users|work|workspace|mnt|opt|scratch)/\w")


def repository_files() -> list[Path]:
    """Files that git tracks or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return sorted({ROOT / name for name in names if name and (ROOT / name).is_file()})


def files_under(folder: str) -> set[Path]:
    return {path for path in repository_files() if ROOT / folder in path.parents}


def refuse_repeated_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Json.load would keep the last of two equal keys, without a word."""
    keys = [key for key, _ in pairs]
    if len(keys) != len(set(keys)):
        raise ValueError(f"repeated keys in {keys}")
    return dict(pairs)


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def first_match(pattern: str, path: str) -> str | None:
    found = re.search(pattern, (ROOT / path).read_text(), flags=re.MULTILINE)
    return found and found[1]


def test_json_parses() -> None:
    for path in repository_files():
        if path.suffix == ".json":
            json.loads(path.read_text(), object_pairs_hook=refuse_repeated_keys)


def test_repeated_key_is_refused() -> None:
    with pytest.raises(ValueError, match="repeated"):
        json.loads('{"a": 1, "a": 2}', object_pairs_hook=refuse_repeated_keys)


def test_files_are_small() -> None:
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in repository_files()}
    assert not {name: size for name, size in sizes.items() if size > MAX_FILE_BYTES}
    assert sum(sizes.values()) <= MAX_REPOSITORY_BYTES


def test_no_machine_paths() -> None:
    texts = [path for path in repository_files() if path.suffix in TEXT_SUFFIXES and path != Path(__file__).resolve()]
    found = {str(path.relative_to(ROOT)) for path in texts if MACHINE_PATH.search(path.read_text(encoding="utf-8"))}
    assert not found


@pytest.mark.parametrize(
    ("text", "found"),
    [('"/home/ada/data"', True), ("see /workspace/data", True), ("https://a.org/home/x", False), ("~/work/x", False)],
)
def test_machine_path_pattern(text: str, found: bool) -> None:
    assert bool(MACHINE_PATH.search(text)) is found


def test_versions_agree() -> None:
    versions = {
        "CHANGELOG.md": first_match(r"^## \[(.+?)\]", "CHANGELOG.md"),
        "CITATION.cff": first_match(r"^version: (\S+)", "CITATION.cff"),
    }
    if (ROOT / "bundle/configs/metadata.json").exists():
        versions["metadata.json"] = json.loads((ROOT / "bundle/configs/metadata.json").read_text())["version"]
    assert versions == dict.fromkeys(versions, project()["project"]["version"])


def test_license_and_readme() -> None:
    assert (ROOT / "bundle/LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (ROOT / "README.md").is_file()


def test_constraints_are_exact_and_cover_the_dependencies() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert not [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0].lower()) for line in lines}
    extras = project()["project"]["optional-dependencies"]
    wanted = {re.match(r"[\w-]+", name)[0] for name in sum(extras.values(), project()["project"]["dependencies"])}
    assert wanted - {"chisep"} <= pinned


def test_every_package_is_listed() -> None:
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("custom_transforms/**/__init__.py")}
    assert set(project()["tool"]["setuptools"]["packages"]) == folders | {"custom_transforms._bundle"}


def test_wheel_patterns_cover_bundle_and_data() -> None:
    patterns = project()["tool"]["setuptools"]["package-data"]
    places = {package: package.replace(".", "/") for package in project()["tool"]["setuptools"]["packages"]}
    places |= project()["tool"]["setuptools"]["package-dir"]
    packed = {path for name, globs in patterns.items() for glob in globs for path in (ROOT / places[name]).glob(glob)}
    data = files_under("bundle") | {path for path in files_under("custom_transforms") if path.suffix != ".py"}
    assert not data - packed


def test_wheel_carries_bundle(tmp_path: Path) -> None:
    """Needs the package index: pip fetches setuptools for the build."""
    for path in repository_files():
        copy = tmp_path / "source" / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy2(path, copy)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "dist", "."]
    subprocess.run(build, cwd=tmp_path / "source", check=True)
    (wheel,) = (tmp_path / "source/dist").glob("chisep-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = "from custom_transforms.bundle_path import bundle_path; print(bundle_path())"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "installed", check=True, capture_output=True)
    installed = Path(found.stdout.decode().strip())
    assert installed == tmp_path / "installed/custom_transforms/_bundle"
    for path in files_under("bundle"):
        assert (installed / path.relative_to(ROOT / "bundle")).read_bytes() == path.read_bytes()
