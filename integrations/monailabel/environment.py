"""An environment for MONAI Label: made once, used again while the requirements are the same."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_MARK = "complete.sha256"
# MONAI Label imports two functions for pictures of training, not called here; torchvision's wheel would bring CUDA
_NO_TORCHVISION = '''"""Stands in for torchvision, which serving does not need."""


def make_grid(*args, **kwargs):
    """Say that torchvision is not there."""
    raise NotImplementedError("torchvision is not installed in this environment")


save_image = make_grid
'''


def make_environment(folder: Path) -> Path:
    """Make the environment, or find it complete.

    Args:
        folder: where it is; what is half made there is removed first.

    Returns:
        Its Python.

    Raises:
        CalledProcessError: pip failed.
        ValueError: the folder holds something else.
    """
    folder = folder.resolve()
    python, mark = folder / "bin" / "python", folder / _MARK
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + _NO_TORCHVISION.encode()).hexdigest()
    if mark.is_file() and mark.read_text() == digest:
        return python
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise ValueError(f"{folder} holds something else than an environment; give an empty or a new folder")
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--constraint", str(REQUIREMENTS), "torch==2.13.0"], check=True)
    subprocess.run([*pip, "--no-deps", "--requirement", str(REQUIREMENTS)], check=True)
    _stand_in_for_torchvision(python)
    mark.write_text(digest)
    return python


def _stand_in_for_torchvision(python: Path) -> None:
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip()
    package = Path(packages) / "torchvision"
    if not package.exists():
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "utils.py").write_text(_NO_TORCHVISION)
