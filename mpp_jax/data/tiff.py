"""Layouts of TIFF files: what Pillow reads wrongly or not at all, known before it tries.

A TIFF file may hold bands of any number, depth and kind in either byte order, interleaved or one
after the other. Pillow reads a table of such layouts, and some of those in the table come out
wrong: each rule below was found by comparing it with tifffile. Both are refused with a description
of the file.
"""

from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Self

from PIL import TiffImagePlugin, features

MIN_IS_WHITE: Final = 0
_RGB, _PALETTE, _YCBCR, _CIELAB = 2, 3, 6, 8
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_KINDS = {_UNSIGNED: "integers", _SIGNED: "signed integers", _FLOAT: "floating point"}
_COLOURS = {
    MIN_IS_WHITE: "grey, 0 is white",
    1: "grey",
    _RGB: "RGB",
    _PALETTE: "palette",
    4: "mask",
    5: "CMYK",
    _YCBCR: "YCbCr",
    _CIELAB: "CIELAB",
    32803: "camera raw",
}
_NARROW = (MIN_IS_WHITE, 1, _PALETTE)
_UNCOMPRESSED, _OLD_JPEG = 1, 6
_PREMULTIPLIED = 1
_CURE = "save it with 8 or 16 bits, grey or RGB"
# Tags, numbered as in the TIFF 6.0 specification.
_SUBFILE, _WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_FILL_ORDER, _SAMPLES, _ROWS_PER_STRIP, _PLANAR, _COLOUR_MAP = 266, 277, 278, 284, 320
_TILE_WIDTH, _TILE_LENGTH, _SUB_IFDS, _EXTRA, _FORMAT, _SUBSAMPLING = 322, 323, 330, 338, 339, 530
_DNG_VERSION = 50706


@dataclass(frozen=True)
class Layout:
    """How the first picture of a file is stored; numbers are those of the specification.

    Attributes:
        colours: photometric interpretation.
        kind: sample format.
        bits: of each band.
        compression: method.
        planar: whether there are several bands, each by itself.
        big_endian: byte order.
        reversed_bits: whether the first pixel of a byte is in its lowest bits.
        extra: kinds of the bands beyond the colours.
        subsampling: of chrominance, horizontal and vertical.
        piece: bytes of the largest strip or tile, decompressed.
        narrow_palette: whether a palette's values stay below 256, where white is 65535.
        preview: whether it is a reduced copy of another picture in the file.
    """

    colours: int
    kind: int
    bits: tuple[int, ...]
    compression: int
    planar: bool
    big_endian: bool
    reversed_bits: bool
    extra: tuple[int, ...]
    subsampling: tuple[int, int]
    piece: int
    narrow_palette: bool
    preview: bool

    @classmethod
    def read(cls, file: BinaryIO) -> Self | None:
        """Return the layout of an open file, or None where it is no TIFF or too damaged.

        The file's position is moved.
        """
        file.seek(0)
        head = file.read(16)
        if head[:4] not in TiffImagePlugin.PREFIXES:
            return None
        try:
            big = head[2:4] in (b"\x2b\0", b"\0\x2b")
            tags = TiffImagePlugin.ImageFileDirectory_v2(head if big else head[:8])
            file.seek(tags.next)
            tags.load(file)
            return cls._of(tags, head[:2] == b"MM") if _WIDTH in tags else None
        except Exception:  # hostile tags raise almost anything; Pillow will say what it meets
            return None

    @classmethod
    def _of(cls, tags: Any, big_endian: bool) -> Self:
        def numbers(tag: int, *default: int) -> tuple[int, ...]:
            value = tags.get(tag, default)
            return tuple(int(v) for v in (value if isinstance(value, tuple) else (value,)))

        def number(tag: int, default: int) -> int:
            return numbers(tag, default)[0]

        compression = number(_COMPRESSION, _UNCOMPRESSED)
        colours = _YCBCR if compression == _OLD_JPEG else number(_PHOTOMETRIC, MIN_IS_WHITE)
        bits = numbers(_BITS, 1)
        samples = min(number(_SAMPLES, len(bits)), 1000)
        bits = bits[:samples] if len(bits) > 1 else bits * samples
        planar = number(_PLANAR, 1) == 2 and len(bits) > 1
        width, height = number(_WIDTH, 0), number(_LENGTH, 0)
        if _TILE_WIDTH in tags:
            pixels = number(_TILE_WIDTH, width) * number(_TILE_LENGTH, height)
        else:
            pixels = width * min(number(_ROWS_PER_STRIP, height), height)
        horizontal, vertical = (*numbers(_SUBSAMPLING, 2, 2), 1)[:2]
        return cls(
            colours=colours,
            kind=max(numbers(_FORMAT, _UNSIGNED)),
            bits=bits,
            compression=compression,
            planar=planar,
            big_endian=big_endian,
            reversed_bits=number(_FILL_ORDER, 1) == 2,
            extra=numbers(_EXTRA),
            subsampling=(horizontal, vertical),
            piece=pixels * (max(bits) if planar else sum(bits)) // 8,
            narrow_palette=colours == _PALETTE and max(numbers(_COLOUR_MAP, 65535)) < 256,
            preview=number(_SUBFILE, 0) & 1 == 1 and (_SUB_IFDS in tags or _DNG_VERSION in tags),
        )

    @property
    def compressed(self) -> bool:
        """Whether Pillow leaves its reading to libtiff."""
        return self.compression != _UNCOMPRESSED

    @property
    def fault(self) -> str | None:
        """Why it is refused although Pillow may give something; None where it may be tried."""
        if self.preview:
            return "the preview in a camera's raw file; convert the file to TIFF, PNG or JPEG"
        if self.narrow_palette:
            return f"{self}, whose colours are not of 16 bits; save it anew"
        wrong = (
            (self.kind == _SIGNED and self.bits[0] <= 8)
            or (self.big_endian and self.compressed and self._wide)
            or (self.planar and self._bands_lost)
            or (self.reversed_bits and not self.compressed and self._bits_lost)
            or (self.colours == _YCBCR and not self.compressed and self.subsampling != (1, 1))
        )
        return f"{self}, which Pillow does not read correctly; {_CURE}" if wrong else None

    @property
    def lacking(self) -> str | None:
        """What this Pillow would need to read it; None where nothing is known to be lacking."""
        if self.compression not in TiffImagePlugin.COMPRESSION_INFO:
            return f"TIFF compressed by method {self.compression}, which this Pillow does not read"
        if self.compressed and not features.check("libtiff"):
            return "compressed TIFF, which this Pillow does not read: it was built without libtiff"
        return None

    @property
    def unread(self) -> str:
        """Why it is refused where Pillow does not know the layout."""
        return f"{self}, which this Pillow does not read; {_CURE}"

    @property
    def _wide(self) -> bool:
        # libtiff gives the machine's byte order, and Pillow takes it for the file's.
        return self.kind != _UNSIGNED or max(self.bits) > 16

    @property
    def _bands_lost(self) -> bool:
        """Whether Pillow takes bands that stand apart for what they are not."""
        if self.colours in (*_NARROW, _CIELAB) or (self.colours == _RGB and len(self.bits) > 4):
            return True
        return not self.compressed and (
            self.colours == _YCBCR or self.bits[0] != 8 or _PREMULTIPLIED in self.extra
        )

    @property
    def _bits_lost(self) -> bool:
        """Whether Pillow has no reader for the lowest bits first."""
        few = self.colours == _PALETTE and self.bits[0] < 8
        return self.planar or few or (self.colours == MIN_IS_WHITE and self.bits[0] == 8)

    def __str__(self) -> str:
        depths = sorted(set(self.bits))
        depth = f"{depths[0]}-bit" if len(depths) == 1 else f"{depths[0]}- to {depths[-1]}-bit"
        bands = f"{len(self.bits)} bands of " if len(self.bits) > 1 else ""
        kind = _KINDS.get(self.kind, f"samples of format {self.kind}")
        details = [
            _COLOURS.get(self.colours, f"colours {self.colours}"),
            *(["big-endian"] if self.big_endian and max(self.bits) > 8 else []),
            *(["band by band"] if self.planar else []),
            *(["lowest bits first"] if self.reversed_bits else []),
            *(["compressed"] if self.compressed else []),
        ]
        return f"TIFF of {bands}{depth} {kind} ({', '.join(details)})"
