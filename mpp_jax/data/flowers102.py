"""Oxford Flowers 102 as it is published: ``flowers102:PATH``.

``PATH`` holds what the archives hold::

    jpg/image_00001.jpg ...     (102flowers.tgz)
    imagelabels.mat             labels: the class 1..102 of every picture
    setid.mat                   trnid, valid, tstid: the numbers of the pictures of each split

``trnid`` and ``valid`` (1,020 each) together are training, ``tstid`` (6,149) is test; others may be
chosen, several joined by ``+``: by these names, or as ``train``, ``val`` and ``test``.
(M.-E. Nilsback and A. Zisserman, "Automated Flower Classification over a Large Number of Classes",
ICVGIP 2008.)
"""

import io
import math
from pathlib import Path
from typing import Final

import numpy as np

from mpp_jax.data.archives import Archive, Asked, amount_notes, find_archive
from mpp_jax.data.dataset import DataError, Dataset, Item, make_dataset

SPLITS: Final = {"trnid": 1020, "valid": 1020, "tstid": 6149}
MAX_NUMBERS: Final = 10**6
"""Most numbers of a variable of the MATLAB files; the official ones have 8,189."""
_ALIASES = {"train": "trnid", "val": "valid", "validation": "valid", "test": "tstid"}
_USUAL = {"train": "trnid+valid", "test": "tstid"}

_NAMES: Final = """
pink primrose; hard-leaved pocket orchid; canterbury bells; sweet pea; english marigold; tiger
lily; moon orchid; bird of paradise; monkshood; globe thistle; snapdragon; colt's foot; king
protea; spear thistle; yellow iris; globe-flower; purple coneflower; peruvian lily; balloon
flower; giant white arum lily; fire lily; pincushion flower; fritillary; red ginger; grape
hyacinth; corn poppy; prince of wales feathers; stemless gentian; artichoke; sweet william;
carnation; garden phlox; love in the mist; mexican aster; alpine sea holly; ruby-lipped
cattleya; cape flower; great masterwort; siam tulip; lenten rose; barbeton daisy; daffodil;
sword lily; poinsettia; bolero deep blue; wallflower; marigold; buttercup; oxeye daisy; common
dandelion; petunia; wild pansy; primula; sunflower; pelargonium; bishop of llandaff; gaura;
geranium; orange dahlia; pink-yellow dahlia; cautleya spicata; japanese anemone; black-eyed
susan; silverbush; californian poppy; osteospermum; spring crocus; bearded iris; windflower;
tree poppy; gazania; azalea; water lily; rose; thorn apple; morning glory; passion flower;
lotus; toad lily; anthurium; frangipani; clematis; hibiscus; columbine; desert-rose; tree
mallow; magnolia; cyclamen; watercress; canna lily; hippeastrum; bee balm; ball moss; foxglove;
bougainvillea; camellia; mallow; mexican petunia; bromelia; blanket flower; trumpet creeper;
blackberry lily
"""
CLASSES: Final = tuple(" ".join(name.split()) for name in _NAMES.split(";"))
"""Names of the classes 1 to 102, as the set's page has them."""


def open_flowers102(path: Path, asked: Asked) -> Dataset:
    """Open the folder of the archives, see the module docstring.

    Args:
        path: the folder, or one above it.
        asked: splits other than the usual ones.

    Returns:
        A data set of one label a picture; ids are ``jpg/image_<number>.jpg``.

    Raises:
        DataError: one line that says what is missing or damaged, how often and where first.
    """
    archive = find_archive("flowers102", path, _is_flowers, "setid.mat and imagelabels.mat")
    splits = {
        "train": _canonical(archive, asked.split_train or _USUAL["train"]),
        "test": _canonical(archive, asked.split_test or _USUAL["test"]),
    }
    labels = _numbers(archive, "imagelabels.mat", ("labels",))["labels"]
    odd = [f"{label}" for label in labels if not 1 <= label <= len(CLASSES)]
    archive.check(odd, f"label(s) in 'imagelabels.mat' are none of 1..{len(CLASSES)}")
    numbers = _numbers(archive, "setid.mat", tuple(SPLITS))
    members = {
        side: np.concatenate([numbers[part] for part in split.split("+")]).tolist()
        for side, split in splits.items()
    }
    said = ", ".join(f"{side}: {split}" for side, split in splits.items())
    for side, chosen in members.items():
        alien = [str(n) for n in chosen if not 1 <= n <= len(labels)]
        archive.check(alien, f"number(s) in 'setid.mat' are none of 1..{len(labels)}, the labels")
        values, counts = np.unique(chosen, return_counts=True)
        twice = [str(n) for n in values[counts > 1]]
        archive.check(twice, f"number(s) stand twice in {splits[side]} of 'setid.mat'")
    places = {side: [_place(n) for n in chosen] for side, chosen in members.items()}
    archive.check_apart(places["train"], places["test"], said)
    there = archive.names_in(archive.root / "jpg")
    lost = [
        repr(_place(n))
        for chosen in members.values()
        for n in chosen
        if Path(_place(n)).name not in there
    ]
    archive.check(lost, "picture(s) of 'setid.mat' are missing")
    items = [
        Item(_place(n), (int(labels[n - 1]) - 1,), side, path=archive.root / _place(n))
        for side, chosen in members.items()
        for n in chosen
    ]
    official = {side: sum(SPLITS[p] for p in split.split("+")) for side, split in splits.items()}
    return make_dataset(
        "flowers102" if splits == _USUAL else f"flowers102 ({said})",
        CLASSES,
        items,
        multi_label=False,
        notes=[said, *amount_notes("Flowers 102", items, official)],
        to_train=asked.to_train,
    )


def _is_flowers(folder: Path) -> bool:
    return (folder / "setid.mat").is_file() or (folder / "imagelabels.mat").is_file()


def _place(number: int) -> str:
    return f"jpg/image_{number:05d}.jpg"


def _canonical(archive: Archive, split: str) -> str:
    """Return a split by the names of setid.mat."""
    parts = [_ALIASES.get(part, part) for part in split.split("+")]
    for part in parts:
        if part not in SPLITS:
            archive.fail(f"no split {part!r}; there are {', '.join(map(repr, SPLITS))}")
        if parts.count(part) > 1:
            archive.fail(f"split {part!r} is named twice in {split!r}")
    return "+".join(parts)


def _numbers(archive: Archive, name: str, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return variables of a MATLAB file as (N,) int64.

    Raises:
        DataError: no such file or variable, a damaged one, or one that holds no whole numbers.
    """
    from scipy.io import loadmat, whosmat  # heavy import

    content = archive.content(archive.root / name)
    try:
        # What is announced is known before anything is made of it.
        announced = {variable: shape for variable, shape, _ in whosmat(io.BytesIO(content))}
        large = [v for v in wanted if math.prod(announced.get(v, ())) > MAX_NUMBERS]
        if large:
            archive.fail(f"{large[0]!r} in {name!r} holds more than {MAX_NUMBERS:,} numbers")
        held = loadmat(io.BytesIO(content), variable_names=wanted)
    except (DataError, MemoryError):  # too little memory says nothing of the file
        raise
    except Exception as error:  # scipy's readers raise almost any type on damaged files
        what = " ".join(str(error).split()) or type(error).__name__
        archive.fail(f"{name!r} is no MATLAB file that can be read ({what})")
    found: dict[str, np.ndarray] = {}
    for variable in wanted:
        if variable not in held:
            archive.fail(f"{name!r} has no variable {variable!r}; is it the official file?")
        values = np.ravel(held[variable])
        whole = values.dtype.kind in "iuf" and values.size and np.isfinite(values).all()
        if not whole or (np.rint(values) != values).any() or np.abs(values).max() > 2**31:
            archive.fail(f"{variable!r} in {name!r} holds no list of whole numbers")
        found[variable] = values.astype(np.int64)
    return found
