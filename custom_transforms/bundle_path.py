"""Where the bundle is: beside the package in a checkout, inside it in a wheel, around it in a packed bundle."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CANDIDATES = (_PACKAGE.parent / "bundle", _PACKAGE / "_bundle", _PACKAGE.parent)


def bundle_path() -> Path:
    """Find the folder that holds the bundle's `configs`, `models` and `docs`.

    Returns:
        Absolute path: `bundle/` of the checkout, else the copy that the wheel carries, else the packed bundle whose
        root holds the package.

    Raises:
        FileNotFoundError: none has a `configs` folder.
    """
    for folder in _CANDIDATES:
        if (folder / "configs").is_dir():
            return folder
    looked = " or ".join(str(folder / "configs") for folder in _CANDIDATES)
    raise FileNotFoundError(
        f"expected the bundle's configs in {looked}, found none; "
        "reinstall chisep (pip install --force-reinstall chisep) or run it from a complete checkout"
    )
