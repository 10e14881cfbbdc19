"""Number formats that a network may compute in, and which one each kind of device takes itself.

- **float32**: float32 parameters, products at precision "highest": the reference.
- **tf32**: float32 parameters whose products an NVIDIA GPU takes with 10 bits of mantissa and adds
  in float32 (TensorFloat-32, compute capability 8.0 and later). No other device has such products:
  there it comes to float32.
- **bfloat16**: parameters and activations in bfloat16, sums in float32.

**auto** is a request, never an answer: what is recorded is what it came to. `AUTO` is the one place
where that is decided.
"""

from typing import Any

import jax
import jax.numpy as jnp

NAMES = ("float32", "tf32", "bfloat16")

AUTO = {"cpu": "float32", "gpu": "tf32", "tpu": "bfloat16"}
"""What "auto" comes to, by JAX's name of the platform; float32 on others.

The rule: the fastest format whose cost in accuracy was measured as nothing, which both are on
Scene-15 and a part of VOC 2007 (``experiments/dtype_cost.py``). On a GPU that is tf32 for now: the
only whole programs that were timed on one took three times as long in bfloat16, for a reason that
was never seen. A TPU has no other products than those of bfloat16, of which it takes six for one of
float32.
"""


def has_tf32(device: Any) -> bool:
    """Return whether products of float32 may be taken in TF32 on a device of JAX."""
    try:  # "9.0" of NVIDIA's, "gfx942" of AMD's
        capability = float(getattr(device, "compute_capability", ""))
    except ValueError:
        return False
    return device.platform == "gpu" and capability >= 8


def resolve_dtype(name: str, device: Any = None) -> str:
    """Return the format that a request comes to on a device.

    Args:
        name: of `NAMES`, or ``"auto"``.
        device: one of JAX's; None for the first of the default platform.

    Returns:
        One of `NAMES`.

    Raises:
        ValueError: an unknown name.
    """
    if name not in ("auto", *NAMES):
        raise ValueError(f"dtype: must be auto, {', '.join(NAMES)}, not {name!r}")
    device = jax.devices()[0] if device is None else device
    if name == "auto":
        name = AUTO.get(device.platform, "float32")
    return "float32" if name == "tf32" and not has_tf32(device) else name


def arithmetic(dtype: Any, precision: str | None = None) -> tuple[Any, str]:
    """Return the parameters' dtype and the precision of the products that a request comes to.

    Args:
        dtype: as in `resolve_dtype`, or any floating-point dtype.
        precision: of the products in convolutions; None for that of the format.

    Raises:
        ValueError: no floating-point dtype, an unknown precision, or one that contradicts.
    """
    if precision not in (None, "highest", "high", "default"):
        raise ValueError(f"precision: must be 'highest', 'high' or 'default', not {precision!r}")
    if isinstance(dtype, str) and dtype in ("auto", "tf32"):
        if precision is not None:
            raise ValueError(f"precision: dtype {dtype!r} decides it; leave one of them out")
        name = resolve_dtype(dtype)
        stored = "float32" if name == "tf32" else name
        return jnp.dtype(stored), "default" if name == "tf32" else "highest"
    try:
        chosen = jnp.dtype(dtype)
    except TypeError:
        chosen = None
    if chosen is None or not jnp.issubdtype(chosen, jnp.floating):
        raise ValueError(f"dtype: must be a floating-point dtype, 'tf32' or 'auto', not {dtype!r}")
    return chosen, precision or "highest"


def dtype_name(dtype: Any, precision: str, device: Any = None) -> str:
    """Return the format that parameters of a dtype, with products of a precision, compute in.

    Args:
        dtype: the parameters'.
        precision: of the products, "highest", "high" or "default".
        device: one of JAX's; None for the first of the default platform.

    Returns:
        One of `NAMES`; of dtypes that are none of these, their own name.
    """
    if jnp.dtype(dtype) == jnp.float32 and precision == "default":
        return resolve_dtype("tf32", device)
    return str(jnp.dtype(dtype))
