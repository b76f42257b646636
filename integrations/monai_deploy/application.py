"""A MONAI Deploy application: `python application.py -i INPUT -o OUTPUT -m PACK`; see README.md."""

from __future__ import annotations

import sys
from pathlib import Path

from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application
from operators import CASE, MAPS, ReadCase, SeparateSources, WriteMaps

SERIES = "dicom"


class SourceSeparation(Application):
    """Local field and R2' of a head to its paramagnetic and its diamagnetic susceptibility."""

    def compose(self) -> None:
        """Connect the operators: read, separate, write."""
        context: AppContext = Application.init_app_context(self.argv)
        folder, pack = Path(context.input_path), Path(context.model_path)
        reader = ReadCase(self, CountCondition(self, 1), folder=folder, pack=pack, name="read")
        separator = SeparateSources(self, pack=pack, name="separate")
        series = folder / SERIES if (folder / SERIES).is_dir() else None
        writer = WriteMaps(self, folder=Path(context.output_path), series=series, name="write")
        self.add_flow(reader, separator, {(CASE, CASE)})
        self.add_flow(separator, writer, {(MAPS, MAPS)})


if __name__ == "__main__":
    try:
        SourceSeparation().run()
    except (ValueError, FileNotFoundError) as error:
        print(f"application.py: error: {error}", file=sys.stderr)
        sys.exit(2)
