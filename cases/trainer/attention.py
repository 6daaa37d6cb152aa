"""Scaled dot-product attention by the kernel that was asked for; one kernel never stands in for the other.

Shape suffixes: B sequences, S query positions, T key positions, H query heads, K key/value heads, E head
size.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F

KINDS = ("sdpa", "flash_attn_2")


class AttentionError(RuntimeError):
    """The kernel that was asked for is not to be had here."""


def check_attention(kind: str, device_type: str) -> None:
    """Raises AttentionError when `kind` cannot run on such a device here; said before anything is trained."""
    if kind not in KINDS:
        raise AttentionError("attention: {!r} is none of {}".format(kind, ", ".join(KINDS)))
    if kind == "flash_attn_2":
        if device_type == "cpu":
            raise AttentionError("attention: flash_attn_2 has no kernel for cpu; ask for sdpa")
        flash_attention()


def attend(
    q_BHSE: torch.Tensor, k_BKTE: torch.Tensor, v_BKTE: torch.Tensor, kind: str, *, causal: bool
) -> torch.Tensor:
    """Mixed values (B, H, S, E). `causal`: position s sees positions 0 … s, and S must be T."""
    if kind == "flash_attn_2":
        # It knows neither autocast nor float32; the values come out of a matmul and have the compute dtype.
        q_BSHE, k_BTKE = (x.to(v_BKTE.dtype).transpose(1, 2) for x in (q_BHSE, k_BKTE))
        return flash_attention()(q_BSHE, k_BTKE, v_BKTE.transpose(1, 2), causal=causal).transpose(1, 2)
    copies = q_BHSE.shape[1] // k_BKTE.shape[1]
    if copies != 1:
        # enable_gqa= came with torch 2.5; the copy is what it does on most devices.
        k_BKTE, v_BKTE = k_BKTE.repeat_interleave(copies, dim=1), v_BKTE.repeat_interleave(copies, dim=1)
    return F.scaled_dot_product_attention(q_BHSE, k_BKTE, v_BKTE, is_causal=causal)


@functools.lru_cache(maxsize=None)
def flash_attention() -> Any:
    """flash_attn_func of the flash_attn package. Raises AttentionError when it is absent or older than 2."""
    try:
        import flash_attn
    except ImportError as error:
        raise AttentionError(
            "attention: flash_attn_2 needs the package flash_attn in the image: {}".format(error)
        ) from error
    version = str(getattr(flash_attn, "__version__", "unknown"))
    if not version.startswith("2."):
        raise AttentionError("attention: flash_attn_2 needs flash_attn 2, found {}".format(version))
    return flash_attn.flash_attn_func
