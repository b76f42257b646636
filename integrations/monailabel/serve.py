"""Serve packed bundles with MONAI Label on this machine: `python serve.py --pack PACK`. Needs Python 3.11 or 3.12."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from environment import make_environment

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "monailabel"
LOOPBACK = "127.0.0.1"
PARALLEL = 32  # connections; a request more is answered with 503


def stacked_inference(pack: Path) -> dict[str, object]:
    """Stack label.json, of the pack or else of this checkout, on the pack's inference.json."""
    configs = [pack / "configs", HERE.parents[1] / "bundle" / "configs"]
    patch = next((folder / "label.json" for folder in configs if (folder / "label.json").is_file()), None)
    if patch is None:
        raise FileNotFoundError(f"no label.json in {configs[0]} or {configs[1]}; pack the bundle again")
    stacked: dict[str, object] = json.loads((pack / "configs" / "inference.json").read_text(encoding="utf-8"))
    changes = json.loads(patch.read_text(encoding="utf-8"))
    return stacked | {name: value for name, value in changes.items() if name not in ("_meta_", "_desc_")}


def place_pack(pack: Path, app: Path) -> Path:
    """Copy a pack into the application, its inference.json ready for one file a case.

    Args:
        pack: what `chisep pack` wrote.
        app: folder of the monaibundle application.

    Returns:
        The copy, which replaces an older one.

    Raises:
        FileNotFoundError: it is no pack.
    """
    needed = ("configs/inference.json", "configs/metadata.json", "models/model.pt", "custom_transforms/__init__.py")
    absent = [name for name in needed if not (pack / name).is_file()]
    if absent:
        raise FileNotFoundError(f"{pack} is no packed bundle, it has no {absent[0]}; write one with `chisep pack`")
    inference = stacked_inference(pack)
    target = app / "model" / pack.name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(pack, target)
    (target / "configs" / "inference.json").write_text(json.dumps(inference, indent=4) + "\n", encoding="utf-8")
    return target


def prepare(packs: Sequence[Path], environment: Path, work: Path) -> tuple[Path, list[Path]]:
    """Make the environment and the application.

    Returns:
        Python of the environment, and the bundles in their places.
    """
    python = make_environment(environment)
    app = work / "apps" / "monaibundle"
    if not app.is_dir():
        download = ["apps", "--download", "--name", app.name, "--output", str(app.parent)]
        subprocess.run([str(python), "-m", "monailabel.main", *download], check=True, stdout=subprocess.DEVNULL)
    for name in ("studies", "run", "tmp"):
        (work / name).mkdir(parents=True, exist_ok=True)
    return python, [place_pack(pack, app) for pack in packs]


def server_command(python: Path, work: Path, bundles: Sequence[Path], port: int) -> tuple[list[str], dict[str, str]]:
    """Give the command of the server and its environment variables."""
    conf = {"models": ",".join(bundle.name for bundle in bundles), "zoo_source": "local", "preload": "false"}
    conf |= {"skip_trainers": "true", "sam2": "false"}
    command = [str(python), "-m", "monailabel.main", "start_server"]
    command += ["--app", str(work / "apps" / "monaibundle"), "--studies", str(work / "studies")]
    command += ["--host", LOOPBACK, "--port", str(port), "--limit_concurrency", str(PARALLEL)]
    command += ["--uvicorn_app", "guarded:app"]
    command += [part for item in conf.items() for part in ("--conf", *item)]
    path = os.pathsep.join([str(HERE), *(str(bundle) for bundle in bundles)])
    # No sessions, which unpack archives; no watching of the folder, which may overtake an upload
    settings = {"MONAI_LABEL_SESSIONS": "false", "MONAI_LABEL_DATASTORE_AUTO_RELOAD": "false"}
    return command, {**os.environ, **settings, "PYTHONPATH": path, "TMPDIR": str(work / "tmp")}


def main() -> None:
    """Prepare, then become the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, action="append", required=True, help="packed bundle; may be repeated")
    parser.add_argument("--environment", type=Path, default=os.environ.get("CHISEP_LABEL_ENV", BUILD / "environment"))
    parser.add_argument("--work", type=Path, default=BUILD / "work", help="application, uploaded images, logs")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--prepare", action="store_true", help="make everything, but start no server")
    options = parser.parse_args()
    work = options.work.resolve()
    try:
        python, bundles = prepare([pack.resolve() for pack in options.pack], Path(options.environment), work)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"serve.py: error: {error}")
    if not options.prepare:
        command, variables = server_command(python, work, bundles, options.port)
        os.chdir(work / "run")
        os.execve(command[0], command, variables)


if __name__ == "__main__":
    main()
