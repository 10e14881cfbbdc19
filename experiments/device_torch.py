"""The peer of ``bench_device.py``: the same work in torch, eager, channels last, where it is there.

uint8 pictures on the device; resized by ``interpolate`` without antialiasing (less work than ours,
which filters where it shrinks), mean subtracted, layers with the same weights. ``cudnn.benchmark``
is on. On a CPU it runs in float32 and bfloat16 as well, which says nothing of an accelerator.
"""

import functools
from typing import Any

import numpy as np
from bench_dense import torch_forward
from device_work import Setting, Unit, of_pictures
from timing import first_and_steady

from mpp_jax.describe.planning import picture_flop
from mpp_jax.nets.forms import Mode


def torch_units(setting: Setting, modes: list[Mode]) -> list[Unit]:
    """Return each scale in torch, in every mode that it has: float32's "highest" is tf32's off."""
    import torch
    from torch.nn import functional

    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layer = setting.spec.default_layer
    torch.backends.cudnn.benchmark = True

    def unit(mode: Mode, k: int) -> dict[str, Any]:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = mode == "tf32"
        dtype = torch.bfloat16 if mode == "bfloat16" else torch.float32

        def place(tensor: Any) -> Any:
            last = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
            return tensor.to(where, dtype, memory_format=last)

        network = setting.network_in("float32")
        forward = torch_forward(network, layer, place)
        side, (height, width) = setting.side(k), setting.picture
        canvas = torch.from_numpy(setting.canvases().canvas).to(where)
        mean = torch.tensor(np.asarray(network.mean)).reshape(1, 3, 1, 1).to(where)
        factor = torch.tensor(np.asarray(network.scale)).reshape(1, 3, 1, 1).to(where)

        def run() -> None:
            with torch.inference_mode():
                x = canvas[:, :height, :width].permute(0, 3, 1, 2).float()
                x = functional.interpolate(x, (side, side), mode="bilinear", antialias=False)
                forward(place((x - mean) * factor))
            if where.type == "cuda":
                torch.cuda.synchronize()

        first, steady = first_and_steady(run, setting.repeats)
        flop = picture_flop(setting.spec, layer, side)
        figures = of_pictures(first, steady, setting.batch, flop)
        used = torch.cuda.max_memory_allocated() if where.type == "cuda" else None
        return {**figures, "peak_memory_bytes": used, "torch": torch.__version__}

    return [
        (f"torch/{mode}/{setting.side(k)}", functools.partial(unit, mode, k))
        for mode in modes
        for k in setting.scales
    ]
