"""Which precision is fast on a device."""

import torch


def has_fast_bfloat16(device: torch.device | str) -> bool:
    """Tell whether a device multiplies matrices in bfloat16 faster than in float32.

    CPUs do with AVX512-BF16 or AMX; elsewhere they would emulate it, slower than float32.

    Args:
        device: a CPU or GPU.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
