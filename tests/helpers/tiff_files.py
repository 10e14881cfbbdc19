"""TIFF files of any layout, written from the specification."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

_CODES = {3: "H", 4: "I"}


def tiff_file(
    values: np.ndarray,
    bits: int,
    colours: int,
    *,
    compression: int = 1,
    order: str = "<",
    planar: bool = False,
    reversed_bits: bool = False,
    extra: Sequence[int] = (),
    kind: int = 1,
    rows: int = 4,
    tags: dict[int, tuple[int, list[int]]] | None = None,
) -> bytes:
    """Return a file of strips.

    Args:
        values: (H, W, bands) integers of so many bits.
        bits: of a sample.
        colours: photometric interpretation.
        compression: 1 for none, 8 for deflate.
        order: "<" or ">".
        planar: one band after the other.
        reversed_bits: FillOrder 2.
        extra: ExtraSamples.
        kind: SampleFormat.
        rows: of a strip.
        tags: more of them, number -> (type, values).
    """
    height, width, bands = values.shape
    strips = []
    for plane in [values[:, :, i] for i in range(bands)] if planar else [values]:
        for top in range(0, height, rows):
            data = b"".join(_row(row.ravel(), bits, order) for row in plane[top : top + rows])
            data = zlib.compress(data) if compression == 8 else data
            strips.append(data.translate(_REVERSED) if reversed_bits else data)
    content, offsets = b"", []
    for strip in strips:
        offsets.append(8 + len(content))
        content += strip + b"\0" * (len(strip) % 2)
    fields = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * bands),
        259: (3, [compression]),
        262: (3, [colours]),
        266: (3, [2 if reversed_bits else 1]),
        273: (4, offsets),
        277: (3, [bands]),
        278: (4, [rows]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [2 if planar else 1]),
        339: (3, [kind] * bands),
        **({338: (3, list(extra))} if extra else {}),
        **(tags or {}),
    }
    start = 8 + len(content)
    behind = start + 2 + 12 * len(fields) + 4
    entries, outside = b"", b""
    for tag, (code, numbers) in sorted(fields.items()):
        raw = struct.pack(f"{order}{len(numbers)}{_CODES[code]}", *numbers)
        if len(raw) > 4:
            place = struct.pack(f"{order}I", behind + len(outside))
            outside += raw + b"\0" * (len(raw) % 2)
        else:
            place = raw.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, code, len(numbers)) + place
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    return head + content + struct.pack(f"{order}H", len(fields)) + entries + bytes(4) + outside


_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def _row(samples: np.ndarray, bits: int, order: str) -> bytes:
    if bits in (8, 16, 32):
        return samples.astype(f"{order}u{bits // 8}").tobytes()
    text = "".join(f"{int(sample):0{bits}b}" for sample in samples)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
