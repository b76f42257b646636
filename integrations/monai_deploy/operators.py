"""Operators of MONAI Deploy around the plain functions: read a case, separate its sources, write the maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.deploy.core import ExecutionContext, Fragment, InputContext, Operator, OperatorSpec, OutputContext
from separation import read_case, separate, write_maps

CASE, MAPS = "case", "maps"


class ReadCase(Operator):
    """Read a folder of maps; output: a case."""

    def __init__(self, fragment: Fragment, *args: Any, folder: Path, pack: Path, **kwargs: Any) -> None:
        self.folder, self.pack = folder, pack
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """One output."""
        spec.output(CASE)

    def compute(self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext) -> None:
        """Read."""
        op_output.emit(read_case(self.folder, self.pack), CASE)


class SeparateSources(Operator):
    """Run the network of a pack; input: a case, output: its maps and their affine."""

    def __init__(self, fragment: Fragment, *args: Any, pack: Path, **kwargs: Any) -> None:
        self.pack = pack
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """One input, one output."""
        spec.input(CASE)
        spec.output(MAPS)

    def compute(self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext) -> None:
        """Separate."""
        case = op_input.receive(CASE)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        op_output.emit((separate(case, self.pack, device), torch.as_tensor(case.image.affine)), MAPS)


class WriteMaps(Operator):
    """Write float NIfTI, and parametric maps where there is a DICOM series to refer to; input: maps and affine."""

    def __init__(self, fragment: Fragment, *args: Any, folder: Path, series: Path | None, **kwargs: Any) -> None:
        self.folder, self.series = folder, series
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """One input."""
        spec.input(MAPS)

    def compute(self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext) -> None:
        """Write."""
        maps, affine = op_input.receive(MAPS)
        write_maps(maps, affine, self.folder, self.series)
