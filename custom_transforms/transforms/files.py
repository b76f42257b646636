"""Are the files of a case what they say? It comes before they are read, as readers believe their headers."""

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import MapTransform

from custom_transforms.file_guard import check_image_file

_ENDINGS = (".nii", ".nii.gz")


class CheckFilesd(MapTransform):
    """Check the NIfTI files of a case, see :func:`custom_transforms.file_guard.check_image_file`.

    Other formats are refused: MONAI would choose their readers by the ending, and what those do with a hostile file
    was not looked at.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check each file; the data stay as they are.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file does not hold what its header says, or is not .nii or .nii.gz.
        """
        for key in self.key_iterator(dict(data)):
            path = str(data[key])
            if not path.lower().endswith(_ENDINGS):
                raise ValueError(f"{key} ({path}) is not .nii or .nii.gz; store it as NIfTI")
            check_image_file(str(key), path)
        return dict(data)
