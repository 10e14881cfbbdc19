"""Dense SIFT described as a network, so that it can take a network's place (Figure 3).

``sift`` is a name that every command takes where it takes a network's; there are no weights. Its
layer says the grid: ``bin8step8`` (the default), ``bin4step4`` and so on, in pixels.
"""

import dataclasses
import math
import re

from mpp_jax.nets.spec import LayerSpec, NetSpec

DIRECTIONS = 8
BINS = 4
CHANNELS = BINS * BINS * DIRECTIONS

NOMINAL_BLUR = 0.5
"""Blur that a picture is taken to have already, in pixels (Lowe 2004, section 3.3)."""


@dataclasses.dataclass(frozen=True)
class Sift:
    """Settings of the descriptor and its grid, in pixels.

    Attributes:
        bin_size: side of one of the 4 x 4 histograms.
        step: from one descriptor to the next.
        blur: standard deviation that the picture is blurred to; None for ``bin_size / 6``.
        window_size: standard deviation of the Gaussian window in bins; `math.inf` for none.
        clip: largest entry between the two normalisations.

    Raises:
        ValueError: a setting out of range.
    """

    bin_size: int = 8
    step: int = 8
    blur: float | None = None
    window_size: float = 2.0
    clip: float = 0.2

    def __post_init__(self) -> None:
        for name in ("bin_size", "step"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of pixels from 1, got {value!r}")
        if self.blur is not None and not 0 <= self.blur < math.inf:
            raise ValueError(f"blur must be 0 or more pixels, or None, got {self.blur!r}")
        if not self.window_size > 0:
            raise ValueError(f"window_size must be a positive number, got {self.window_size!r}")
        if not 0 < self.clip <= 1:
            raise ValueError(f"clip must lie in (0, 1], got {self.clip!r}")

    @property
    def window(self) -> int:
        """Side of a descriptor's 4 x 4 bins, centre pixel included."""
        return BINS * self.bin_size + 1

    @property
    def added_blur(self) -> float:
        """Standard deviation of the Gaussian that is applied to the picture."""
        wanted = self.bin_size / 6 if self.blur is None else self.blur
        return math.sqrt(max(wanted**2 - NOMINAL_BLUR**2, 0.0))

    def centres(self, side: int) -> range:
        """Return the pixels along an axis of `side` pixels at which there are descriptors."""
        half = BINS // 2 * self.bin_size
        return range(half, side - half, self.step)


_LAYER = re.compile(r"bin([1-9]\d{0,3})step([1-9]\d{0,3})")


@dataclasses.dataclass(frozen=True)
class SiftSpec(NetSpec):
    """A network without layers, whose descriptors are dense SIFT."""

    def settings(self, layer: str | None = None) -> Sift:
        """Return the settings that a layer's name stands for (None: the default layer's).

        Raises:
            ValueError: a name of another form.
        """
        name = self.default_layer if layer is None else layer
        match = _LAYER.fullmatch(name)
        if match is None:
            raise ValueError(
                f"layer: {name!r} of network {self.name!r} must name bin size and step in pixels, "
                f"as {self.default_layer!r} does"
            )
        return Sift(bin_size=int(match[1]), step=int(match[2]))

    def layer(self, name: str | None = None) -> LayerSpec:
        """Return the descriptor geometry of a layer; see `NetSpec.layer`."""
        sift = self.settings(name)
        return LayerSpec(name or self.default_layer, CHANNELS, sift.window, sift.step)

    def positions(self, side: int, layer: str | None = None) -> int:
        """Return the descriptors along an axis of `side` pixels (0: the picture is too small)."""
        return len(self.settings(layer).centres(side))


SIFT_SPEC = SiftSpec(
    name="sift",
    side=227,
    layers=(),
    default_layer="bin8step8",
    descriptor_layers=("bin8step8",),
    preprocessing=(),
)
