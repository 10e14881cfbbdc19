"""What every reader of a weight file hands over, and the one error they raise."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from mpp_jax.nets.spec import LRN, Preprocessing
from mpp_jax.nets.weight_files import Convention

MAX_MESSAGE = 16_000
SHOWN_FINDINGS = 5
MAX_FINDING = 300


class WeightsError(ValueError):
    """A weight file that is missing, damaged, or made for another network.

    The message is one line of bounded length, whatever names the file puts into it.

    Attributes:
        findings: all that is wrong, where an audit found it; the message holds the first few.
    """

    def __init__(self, message: str, findings: Sequence[str] = ()) -> None:
        self.findings = tuple(findings)
        line = " ".join(message.split())
        super().__init__(line if len(line) <= MAX_MESSAGE else f"{line[:MAX_MESSAGE]} ...")


@dataclasses.dataclass(frozen=True)
class FileLayer:
    """A layer as a file that stores the network's structure describes it; None: not stored."""

    kind: Literal["conv", "dense", "pool", "lrn"]
    name: str
    kernel: int | None = None
    stride: int | None = None
    pad: int | None = None
    groups: int | None = None
    lrn: LRN | None = None


@dataclasses.dataclass(frozen=True)
class SourceWeights:
    """Arrays of a weight file under the file's own names and in its own layout.

    Attributes:
        format: name of the file format, for messages.
        convention: which naming and layout rules apply.
        arrays: key -> array.
        preprocessing: where the file states it; None leaves it to the network's convention.
        mean_image: (h, w, 3) float32 in the file's channel order, where the file has one.
        structure: the file's layers in order, empty where it has none.
        network: the one whose layer list the reader had to borrow names or shapes from; None: the
            file reads the same whatever network it is wanted for.
    """

    format: str
    convention: Convention
    arrays: dict[str, np.ndarray]
    preprocessing: Preprocessing | None = None
    mean_image: np.ndarray | None = None
    structure: tuple[FileLayer, ...] = ()
    network: str | None = None


def summary(findings: Sequence[str]) -> str:
    """Return the first findings of an audit in one line, and how many more there are."""
    shown = [finding[:MAX_FINDING] for finding in findings[:SHOWN_FINDINGS]]
    if (more := len(findings) - len(shown)) > 0:
        shown.append(f"and {more} more (weights verify lists all)")
    return "; ".join(shown)


def shortest(value: float) -> float:
    """Return a float32 as the shortest decimal that names it: 1e-4, not 9.99999974738e-05."""
    return float(str(np.float32(value)))
