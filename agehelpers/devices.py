"""Where and how precisely to compute: device, precision, and what hardware was there."""

import ctypes
import os
import platform
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from agehelpers.config import Config

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(config: Config) -> torch.device:
    """CUDA where there is a GPU and the configuration allows it; ValueError for device=cuda without one."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda', but torch finds no CUDA GPU here; use device=auto or device=cpu")
    use_cuda = config.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_cuda else "cpu")


def pick_precision(config: Config, device: torch.device) -> torch.dtype:
    """bf16 where GPU or processor compute with it, else fp16 on CUDA and fp32 on CPU; an explicit precision wins."""
    if config.precision != "auto":
        return PRECISIONS[config.precision]
    if device.type == "cpu":  # without such instructions bf16 is many times slower than fp32
        able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """Mixed precision, or nothing for fp32."""
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, precision)


def world() -> tuple[int, int]:
    """Rank of this process and number of the processes that train together (`training.together`); (0, 1) alone."""
    one = torch.distributed
    return (one.get_rank(), one.get_world_size()) if one.is_available() and one.is_initialized() else (0, 1)


def single_precision(device: torch.device) -> AbstractContextManager:
    """No mixed precision within one; nothing on devices that have none."""
    return torch.autocast(device.type, enabled=False) if device.type in ("cpu", "cuda") else nullcontext()


def keep_freed_memory() -> None:
    """Tell glibc, for the whole process, to keep freed memory for what is allocated next; elsewhere nothing happens.

    A training step allocates the same large tensors again and again. By default each goes back to the system, which has
    to clear its pages anew: a sixth of a step's time on a CPU.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            ctypes.CDLL(None).mallopt(parameter, value)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor` on `device`; a copy to a GPU does not wait for what the GPU is doing."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def hardware() -> dict[str, Any]:
    """Processor, cores, threads and GPU ("card" in records, whose keys do not change)."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {"system": platform.platform(terse=True), "processor": model or platform.processor(),
            "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "card": torch.cuda.get_device_name() if torch.cuda.is_available() else None}
