"""The recipe of the image, as far as it can be checked without building it."""

import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "integrations" / "container"


def instructions(recipe: str) -> list[tuple[str, str]]:
    """Split a Dockerfile into instructions and what they say."""
    lines = [line for line in recipe.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


RECIPE = instructions((FOLDER / "Dockerfile").read_text())


def said(instruction: str) -> list[str]:
    return [text for name, text in RECIPE if name == instruction]


def copied() -> set[str]:
    return {source for text in said("COPY") for source in text.split()[:-1]}


def sent_to_the_builder(path: str, ignore: str) -> bool:
    """Apply the rules of a .dockerignore to a path: the last that fits it, or a folder above it, decides."""
    parts = path.split("/")
    names = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    sent = True
    for rule in (line for line in ignore.splitlines() if line and not line.startswith("#")):
        pattern = rule.removeprefix("!")
        anywhere = pattern.removeprefix("**/")
        fits = any(fnmatch(part, anywhere) for part in parts) if anywhere != pattern else False
        if fits or any(name.count("/") == pattern.count("/") and fnmatch(name, pattern) for name in names):
            sent = rule.startswith("!")
    return sent


def test_what_is_copied_exists_and_suffices_for_the_package() -> None:
    assert all((ROOT / source).exists() for source in copied())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    folders = project["tool"]["setuptools"]["package-dir"].values()
    assert needed | {"custom_transforms", "constraints.txt", *folders} == copied()


def test_results_of_runs_are_left_out() -> None:
    ignore = (FOLDER / "Dockerfile.dockerignore").read_text()
    assert all(sent_to_the_builder(source, ignore) for source in copied())
    for path in ("bundle/models/model.pt", "custom_transforms/physics/dipole.py", "bundle/configs/variants/tv.json"):
        assert (ROOT / path).is_file()
        assert sent_to_the_builder(path, ignore)
    for path in (
        "bundle/runs/last/model.pt",
        "custom_transforms/physics/__pycache__/dipole.pyc",
        ".git/config",
        "demo",
    ):
        assert not sent_to_the_builder(path, ignore)


def test_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (image,) = said("FROM")
    assert image.startswith("python:" + project["requires-python"].removeprefix(">="))
    (install,) = [text for text in said("RUN") if text.startswith("pip install ")]
    assert "--constraint /chisep/constraints.txt /chisep" in install
    for file in ("Dockerfile", "README.md"):
        assert set(re.findall(r"chisep:(\d[\d.]*\d)", (FOLDER / file).read_text())) == {project["version"]}
    torch = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)[1]
    assert f"fixes the version, {torch}," in (FOLDER / "README.md").read_text()


def test_entry_point_is_the_script_and_the_user_is_not_root() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    (entry,) = said("ENTRYPOINT")
    assert json.loads(entry) == list(scripts)
    (user,) = said("USER")
    assert any(f"useradd {user}" in text for text in said("RUN"))
    names = [name for name, _ in RECIPE]
    assert names.index("USER") > names.index("RUN")


def test_the_parser_notices_what_is_wrong() -> None:
    assert instructions("# FROM a\nFROM b\n\nUSER root") == [("FROM", "b"), ("USER", "root")]
    assert not sent_to_the_builder("bundle/runs/x", "*\n!bundle\nbundle/runs")
    assert sent_to_the_builder("bundle/runs/x", "*\n!bundle\nruns")  # a rule without a folder is of the root alone
