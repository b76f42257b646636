"""Where the bundle is: beside the package in a checkout, inside the package in an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CANDIDATES = (_PACKAGE.parent / "bundle", _PACKAGE / "_bundle")


def bundle_path() -> Path:
    """Find the folder that holds the bundle's `configs`, `models` and `docs`.

    Returns:
        Absolute path: `bundle/` of the checkout, else the copy that the wheel carries.

    Raises:
        FileNotFoundError: neither has a `configs` folder.
    """
    for folder in _CANDIDATES:
        if (folder / "configs").is_dir():
            return folder
    looked = " or ".join(str(folder / "configs") for folder in _CANDIDATES)
    raise FileNotFoundError(
        f"expected the bundle's configs in {looked}, found neither; "
        "reinstall chisep (pip install --force-reinstall chisep) or run it from a complete checkout"
    )
