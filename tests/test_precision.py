"""Only hardware that multiplies bfloat16 itself counts as fast."""

import pytest
import torch

from custom_transforms.precision import has_fast_bfloat16


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True, "avx512_bf16": False}, True),
        ({"avx2": True}, False),
        ({}, False),
    ],
)
def test_a_cpu_is_asked(capabilities: dict[str, bool], fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_fast_bfloat16("cpu") is fast


def test_other_devices_stay_in_float32() -> None:
    assert not has_fast_bfloat16(torch.device("meta"))


@pytest.mark.gpu
def test_a_gpu_is_asked() -> None:
    assert has_fast_bfloat16("cuda") == torch.cuda.is_bf16_supported(including_emulation=False)
