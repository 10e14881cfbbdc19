"""The paper's Figures 5 and 6: confidence maps, and whether they point at the right place.

A model that was trained on whole pictures only is asked where its classes are. A test picture of
one Scene-15 class is shrunk to a box of known place and size inside a test picture of another
class; the map of the pasted class should have its peak in the box. Counted are the share of
pictures where it does (ties of the peak count by the share of them in the box), beside two chance
rates: the mean share of the box in the area, and the share of peaks that fall in the box before
anything is pasted there (maps prefer some places to others). Both readings are tried, without the
machines' bias and with it.

    mpp-jax run DATA --scales 1-4 --l2 before --out runs/scenes        (DATA: scene15)
    python experiments/figure5.py --model runs/scenes/model            8 minutes, 2 cores
    python experiments/figure5.py --model runs/scenes/model --quick    2 minutes

On photographs with boxes, `figure5_boxes.py`: how many maps peak in a box of their class,

    python experiments/figure5.py --data voc:PATH            with a model that it trains: any
                                    --network, --layer, --scales; 25 minutes for 1,900 pictures
    python experiments/figure5.py --data voc:PATH --quick    20 pictures a class: 2 minutes
    python experiments/figure5.py --data voc:PATH --model DIR

Writes the counts to ``--out`` and the maps of a few pictures, several classes side by side, to the
folder ``--figures``. Data: ``$MPP_JAX_SHARED/data/scene15`` (default ../shared).

Expected with 100 pairs: the peak is in the box for 71% of the pictures by ``sum``, 82% by ``vote``
(boxes of 0.35 of the sides 50 and 69%, of 0.5 92 and 95%), where the box has 19% of the area and
21% and 29% of the peaks before anything is pasted. With the bias, 0.5% and 28%. Results:
``results/figure5.json``.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import figure5_boxes
import jax.numpy as jnp
import numpy as np
from machine import provenance, shared
from PIL import Image, ImageDraw

from mpp_jax.data import canvas_batches, decode_picture
from mpp_jax.describe.extraction import describe_sources
from mpp_jax.maps.confidence import Reading, plan_maps, planned_maps, without_bias
from mpp_jax.maps.overlays import panels
from mpp_jax.maps.picture_maps import map_pictures
from mpp_jax.memory import keep_freed_memory
from mpp_jax.pooling import parse
from mpp_jax.progress import Watcher
from mpp_jax.runs.model import Model, load_model, picture_item
from mpp_jax.runs.vectors import first_encoded, wanted_of

READINGS: tuple[Reading, ...] = ("sum", "vote")
SIZES = (0.35, 0.5)
SIDE = 128
"""Of the maps whose peaks are taken."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Pair:
    """A picture with another one in it.

    Attributes:
        host: file of the picture.
        guest: file of the picture that is pasted.
        label: class of the guest.
        box: (top, left, bottom, right) as fractions of the host.
    """

    host: Path
    guest: Path
    label: str
    box: Box


def draw_pairs(root: Path, count: int, seed: int) -> list[Pair]:
    """Choose hosts, guests of other classes, and boxes of the sizes in turn."""
    rng = np.random.default_rng(seed)
    classes = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    files = {name: sorted((root / name).glob("*.jpg")) for name in classes}
    pairs = []
    for i in range(count):
        host, guest = (classes[j] for j in rng.choice(len(classes), 2, replace=False))
        size = SIZES[i % len(SIZES)]
        top, left = rng.uniform(0, 1 - size, 2)
        pair = (files[name][rng.integers(len(files[name]))] for name in (host, guest))
        pairs.append(Pair(*pair, guest, (top, left, top + size, left + size)))
    return pairs


def pasted(pair: Pair) -> np.ndarray:
    """Return the host with the guest in its box."""
    host = Image.fromarray(decode_picture(pair.host))
    guest = Image.fromarray(decode_picture(pair.guest))
    top, left, bottom, right = (
        round(fraction * side)
        for fraction, side in zip(pair.box, (*host.size[::-1], *host.size[::-1]), strict=True)
    )
    host.paste(guest.resize((right - left, bottom - top), Image.Resampling.LANCZOS), (left, top))
    return np.asarray(host)


def all_readings(model: Model, picture: np.ndarray, label: str) -> dict[str, np.ndarray]:
    """Return the map (SIDE, SIDE) of one class by reading, with the bias and without."""
    assert model.network is not None
    config, svm = model.provenance.config, model.svms[model.primary]
    atoms = parse(model.primary, config.features, config.pyramid.layer)
    wants = wanted_of(atoms, config.pyramid.scales)
    [batch] = canvas_batches([picture], batch_size=1)
    described = describe_sources(model.network, batch, config.pyramid, wants)
    sources = {source: found.scales for source, found in described.items()}
    numbers = {source: want.scales for source, want in wants.items()}
    first, width = first_encoded(config), svm.weights.shape[1]
    plan = plan_maps(atoms, sources, model.codebooks, numbers, width, first)
    chosen = jnp.array([model.classes.index(label)])
    square = jnp.full((1, 2), float(SIDE))
    return {
        f"{reading}{suffix}": np.asarray(
            planned_maps(plan, sources, machines, model.codebooks, square, chosen, reading, SIDE)
        )[0, 0]
        for suffix, machines in (("", without_bias(svm)), (" with bias", svm))
        for reading in READINGS
    }


def peak_in_box(values: np.ndarray, box: Box) -> float:
    """Return the share of the largest values (one pixel unless tied) whose centre is in the box."""
    centres = (np.arange(SIDE) + 0.5) / SIDE
    top, left, bottom, right = box
    rows, columns = (centres >= top) & (centres < bottom), (centres >= left) & (centres < right)
    peak = values >= values.max() - 1e-6 * max(np.abs(values).max(), 1e-30)
    return float((peak & (rows[:, None] & columns[None])).sum() / peak.sum())


def draw_figures(model: Model, pairs: list[Pair], folder: Path, reading: Reading) -> None:
    """Draw maps of pasted pictures (box outlined), and of whole test pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, pair in enumerate(pairs):
        picture = pasted(pair)
        outlined = Image.fromarray(picture)
        height, width = picture.shape[:2]
        top, left, bottom, right = pair.box
        ImageDraw.Draw(outlined).rectangle(
            (left * width, top * height, right * width, bottom * height), outline="cyan", width=2
        )
        items = [picture_item(0, picture), picture_item(1, decode_picture(pair.host))]
        wanted = [pair.label, pair.host.parent.name]
        for name, shown, item, classes in (
            ("pasted", np.asarray(outlined), items[0], wanted),
            ("whole", decode_picture(pair.host), items[1], None),
        ):
            [found] = map_pictures(model, [item], classes=classes, reading=reading, on_skip=print)
            place = folder / f"{name}-{i + 1}.png"
            panels(shown, found.maps, list(found.classes)).save(place)
            print(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, help="folder of a trained model")
    parser.add_argument("--data", help="class folders, or voc:PATH; default: shared scene15/test")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="20 pairs")
    parser.add_argument("--figures", type=Path, default=Path("runs/figure5"))
    parser.add_argument("--drawn", type=int, default=3, help="pictures drawn of each kind")
    parser.add_argument("--out", type=Path, help="default: results/figure5.json, figure5_voc.json")
    boxes = parser.add_argument_group("with voc:, where no --model is given")
    boxes.add_argument("--network", default="squeezenet")
    boxes.add_argument(
        "--weights", help="default: SqueezeNet's shared file, else the library's own"
    )
    boxes.add_argument("--layer", help="of the network; default: its own")
    boxes.add_argument("--scales", type=int, default=5, help="number of scales")
    boxes.add_argument("--pca", type=int, default=128)
    boxes.add_argument("--components", type=int, default=256)
    boxes.add_argument("--methods", nargs="+", default=["mpp"], help="with maps of each")
    boxes.add_argument("--limit-per-class", type=int)
    boxes.add_argument("--run", type=Path, default=Path("runs/figure5_voc"), help="kept there")
    args = parser.parse_args()
    keep_freed_memory()
    on_boxes = str(args.data).startswith("voc:")
    name = "figure5_voc" if on_boxes else "figure5"
    args.out = args.out or Path(__file__).parent / f"results/{name}.json"
    if on_boxes:
        if args.quick:
            args.limit_per_class, args.scales, args.pca, args.components = 20, 3, 64, 32
        record = {"made": provenance(), **figure5_boxes.play(args)}
        args.out.write_text(json.dumps(record, indent=1) + "\n")
        print(f"results: {args.out}")
        return
    if args.model is None:
        parser.error("--model names a trained model")
    data = Path(args.data) if args.data else shared("scene15/test")
    model = load_model(args.model)
    pairs = draw_pairs(data, 20 if args.quick else args.pairs, args.seed)
    hits: dict[str, list[float]] = {}
    before: dict[str, list[float]] = {}
    with Watcher().bar(len(pairs), "map", "pair") as bar:
        for pair in pairs:
            for counts, picture in ((hits, pasted(pair)), (before, decode_picture(pair.host))):
                for name, values in all_readings(model, picture, pair.label).items():
                    counts.setdefault(name, []).append(peak_in_box(values, pair.box))
            bar.update(1)
    area = [(p.box[2] - p.box[0]) * (p.box[3] - p.box[1]) for p in pairs]
    small = np.arange(len(pairs)) % len(SIZES) == 0
    rows = {
        name: {
            "peak_in_box": float(np.mean(found)),
            f"box_{SIZES[0]}": float(np.mean(np.array(found)[small])),
            f"box_{SIZES[1]}": float(np.mean(np.array(found)[~small])),
            "before_pasting": float(np.mean(before[name])),
        }
        for name, found in hits.items()
    }
    print(f"{'reading':<20} in box   {SIZES[0]}   {SIZES[1]}   before   (area {np.mean(area):.3f})")
    for name, row in rows.items():
        print(f"{name:<20} " + "  ".join(f"{value:6.3f}" for value in row.values()))
    record = {
        "made": provenance(),
        "model": model.provenance.to_dict() | {"weights_file": None},
        "method": model.primary,
        "pairs": len(pairs),
        "seed": args.seed,
        "box_sides": SIZES,
        "box_area_share": float(np.mean(area)),
        "readings": rows,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"results: {args.out}")
    draw_figures(model, pairs[: args.drawn], args.figures, "sum")


if __name__ == "__main__":
    main()
