"""Which network, layer and pooling is best, and what does it: three public networks, two sets.

Scene-15 (**resized to 200 x 200 pixels by whoever published it**) or a VOC 2007 folder, under
SqueezeNet 1.0, torchvision's AlexNet without its fully connected layers, and EfficientNet-Lite0.
Everything is chosen on the training pictures: the layer, C and what is stacked by the mean of
twice five folds (codebooks have seen all training pictures, though not their labels); the
test figure of a choice is printed once, beside those of the plain representations, at their own C.

    python experiments/public_networks.py                     Scene-15, four scales: 90 minutes
    python experiments/public_networks.py --scales 5          the fifth as well
    python experiments/public_networks.py --data voc:PATH     a VOC folder, --classes
    python experiments/public_networks.py --networks efficientnet_lite0 --factors
                                                              one setting changed at a time
    python experiments/public_networks.py --quick             10 pictures a class, 2 scales

Weights: ``$MPP_JAX_SHARED/data`` (default ../shared). Activations, codebooks and inner products are
kept in ``--cache``, so that a second call, or one of more networks, does the rest only. Results:
``results/public_networks.json``, an entry for each set, network and number of scales; others stay.
"""

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lab
import numpy as np
from kernels import Judged, Kernel, by_folds, kernels_of, scored, stacked
from machine import provenance, shared
from mirrored import averaged, with_mirror_images

from mpp_jax.encoders.vlad import vlad
from mpp_jax.intervals import bootstrap
from mpp_jax.pooling import register_pooling
from mpp_jax.pooling.codings import scale_wise
from mpp_jax.runs.settings import Job


class Public(NamedTuple):
    """A network: its weight file below the shared data, and the layers that are tried."""

    weights: str
    layers: tuple[str, ...]


NETWORKS = {
    "squeezenet": Public("squeezenet/compressed_SqueezeNet.net", ("fire9",)),
    "alexnet_torchvision": Public("weights/alexnet_torchvision_conv.npz", ("pool5",)),
    "efficientnet_lite0": Public(
        "weights/efficientnet_lite0.npz", ("block7", "block10", "block14", "block15", "head")
    ),
}
CROPS = ("fc7", "ap10")
POOLED = ("avg", "nfk", "csf", "mpp", "vlad")
BEST = ("ap10", "avg", "mpp")
"""What ``--pooling best`` stacks. A run keeps the first unless another is better by a standard
error of the folds' difference; here the highest is taken."""
GAIN = ("difference", "low", "high")
FACTORS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "l2 none": {"l2": "none"},
    "l2 both": {"l2": "both"},
    "PCA 64": {"pca": 64},
    "whitened": {"whiten": True},
    "K 64": {"components": 64},
    "K 512": {"components": 512},
}
"""Settings of the codebook that are changed one at a time."""
MIRRORED = "with mirror images"


def vlad_intra(x: Any, codebook: Any, mask: Any) -> Any:
    """Return the VLAD (K P,) of a set, each centre's block of length 1; see `mpp_jax.encoders`."""
    return vlad(x, codebook.gmm.means, mask, intra=True)


register_pooling("vlad-intra")(partial(scale_wise, vlad_intra, False))


def open_job(args: argparse.Namespace, network: str, pooling: Sequence[str]) -> Job:
    """Open the job of a network, its own layer the first that is listed."""
    public = NETWORKS[network]
    args.network, args.weights = network, str(shared(public.weights))
    args.layer = public.layers[-1]
    return lab.open_job(args, pooling)


def of_layer(name: str, layer: str, own: str) -> str:
    return name if layer == own else f"{name}({layer})"


def row(kernel: Kernel, found: Judged, job: Job) -> tuple[dict[str, Any], np.ndarray]:
    """Return a representation's figures, and its scores at the C that the folds chose."""
    scores = scored(kernel, job.data, found.c, job.extras.cache)
    figure = lab.measure(job.data)
    return {
        "dimension": kernel.dimension,
        "folds": found.value,
        "folds_at_10": found.at_ten,
        "c": found.c,
        "test": lab.figures(scores, job.data)[figure],
    }, scores


def forward(
    kernels: Mapping[str, Kernel], values: Mapping[str, Judged], job: Job
) -> tuple[tuple[str, ...], Judged]:
    """Return the stack that grows from the best single one while held-out folds gain."""
    chosen = (max(values, key=lambda name: values[name].value),)
    found = values[chosen[0]]
    while True:
        grown = {
            name: by_folds(
                stacked([kernels[n] for n in (*chosen, name)]), job.data, job.extras.cache
            )
            for name in kernels
            if name not in chosen
        }
        if not grown:
            return chosen, found
        best = max(grown, key=lambda name: grown[name].value)
        if grown[best].value <= found.value:
            return chosen, found
        chosen, found = (*chosen, best), grown[best]


def among(
    names: Sequence[str], kernels: Mapping[str, Kernel], job: Job
) -> tuple[tuple[str, ...], Judged]:
    """Return the stack of some representations that folds judge best; the shortest among equals."""
    stacks = [s for n in range(1, len(names) + 1) for s in itertools.combinations(names, n)]
    values = {
        s: by_folds(stacked([kernels[n] for n in s]), job.data, job.extras.cache) for s in stacks
    }
    best = max(values, key=lambda s: values[s].value)
    return best, values[best]


def at_layer(job: Job, layer: str, pooling: Sequence[str]) -> Job:
    """Return the job of a layer, which keeps as many dimensions as it has where these are few."""
    config = job.config
    pca = min(config.encoder.pca, job.network.spec.layer(layer).channels)
    config = replace(
        config,
        pyramid=replace(config.pyramid, layer=layer),
        encoder=replace(config.encoder, pca=pca),
    )
    return lab.with_pooling(replace(job, config=config), pooling)


def measured(job: Job, layers: Sequence[str]) -> tuple[dict[str, Any], dict[str, Kernel]]:
    """Return the figures of a network's layers and representations, and the kernels."""
    own = job.config.pyramid.layer
    assert own is not None
    kernels: dict[str, Kernel] = {}
    values: dict[str, Judged] = {}

    def take(layer: str, pooling: Sequence[str]) -> None:
        for name, kernel in kernels_of(at_layer(job, layer, pooling)).items():
            title = of_layer(name, layer, own)
            kernels[title], values[title] = kernel, by_folds(kernel, job.data, job.extras.cache)
            print(f"{title}: folds {100 * values[title].value:.2f}", flush=True)

    take(own, CROPS)
    for layer in dict.fromkeys(layers):
        take(layer, ("avg", "mpp"))
    best_layer = max(layers, key=lambda layer: values[of_layer("mpp", layer, own)].value)
    take(best_layer, [name for name in POOLED if of_layer(name, best_layer, own) not in kernels])

    table, scores = {}, {}
    for name, kernel in kernels.items():
        table[name], scores[name] = row(kernel, values[name], job)
    mpp = of_layer("mpp", best_layer, own)
    for title, (parts, found) in {
        "mpp+avg": among_one([mpp, "avg"], kernels, job),
        "best": among([mpp if name == "mpp" else name for name in BEST], kernels, job),
        "forward": forward(kernels, values, job),
    }.items():
        figures, scores[title] = row(stacked([kernels[n] for n in parts]), found, job)
        table[title] = {"stack": list(parts), **figures}
    judgement = bootstrap(scores, job.data.targets("test"), lab.measure(job.data))
    for name, figures in table.items():
        whole = judgement[name].interval
        figures["interval"] = [whole.low, whole.high]
        for rival in ("avg", "ap10"):
            gain = judgement[name].minus(judgement[rival])
            figures[f"minus_{rival}"] = [gain.value, gain.low, gain.high]
    return {"best_layer": best_layer, "results": table}, kernels


def among_one(
    names: Sequence[str], kernels: Mapping[str, Kernel], job: Job
) -> tuple[tuple[str, ...], Judged]:
    return tuple(names), by_folds(stacked([kernels[n] for n in names]), job.data, job.extras.cache)


def factors(job: Job, layer: str) -> dict[str, Any]:
    """Return what folds say of a layer's mpp and vlad by codebooks of other settings."""
    plain = at_layer(job, layer, ("mpp", "vlad")).config
    table: dict[str, Any] = {}
    for title, changed in FACTORS.items():
        encoder = replace(plain.encoder, **changed)
        names = ["mpp", "vlad", *(["vlad-intra"] if not changed else [])]
        other = lab.with_pooling(replace(job, config=replace(plain, encoder=encoder)), names)
        found = kernels_of(other, test=False)
        table[title] = {
            name: by_folds(kernel, job.data, job.extras.cache)._asdict()
            for name, kernel in found.items()
        }
        print(title, {n: f"{100 * r['value']:.2f}" for n, r in table[title].items()}, flush=True)
    if not job.data.multi_label:  # a VOC folder's are larger, and twice as many take hours
        both = with_mirror_images(replace(job, config=plain), mirror_folder(job))
        found = kernels_of(lab.with_pooling(both, ["mpp", "vlad"]), test=False)
        table[MIRRORED] = {
            name: by_folds(averaged(kernel), job.data, job.extras.cache)._asdict()
            for name, kernel in found.items()
        }
        print(MIRRORED, {n: f"{100 * r['value']:.2f}" for n, r in table[MIRRORED].items()})
    return table


def mirror_folder(job: Job) -> Path:
    """Return the folder of the mirror images of a job's pictures."""
    assert job.extras.cache is not None
    return job.extras.cache / "pictures" / f"{job.data.name}-mirrored"


def show(entry: Mapping[str, Any]) -> str:
    """Return the table of one network as Markdown."""
    rows = []
    for name, figures in entry["results"].items():
        title = f"{name}: {'+'.join(figures['stack'])}" if "stack" in figures else name
        low, high = (100 * value for value in figures["interval"])
        rows.append(
            [
                title,
                f"{figures['dimension']:,}",
                f"{figures['c']:g}",
                f"{100 * figures['folds']:.2f}",
                f"{100 * figures['test']:.2f} [{low:.2f}, {high:.2f}]",
                lab.shown(dict(zip(GAIN, figures["minus_avg"], strict=True))),
                lab.shown(dict(zip(GAIN, figures["minus_ap10"], strict=True))),
            ]
        )
    return lab.markdown(["", "dimensions", "C", "folds", "test", "- avg", "- ap10"], rows)


def main() -> None:
    parser = lab.parser(__doc__.split("\n\n")[0], "public_networks", scales=4)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--layers", help="of one network, a,b, beside its own; default: all listed")
    parser.add_argument("--factors", action="store_true", help="change one setting at a time")
    args = parser.parse_args()
    record = json.loads(args.out.read_text()) if args.out.exists() else {}

    def keep(name: str, entry: dict[str, Any], job: Job) -> None:
        entry = {"made": provenance(), "config": job.config.to_dict(), **entry}
        place = record.setdefault(job.data.name, {})
        place.setdefault(f"{args.scales} scales", {})[name] = entry
        args.out.write_text(json.dumps(record, indent=1) + "\n")

    together: dict[str, Kernel] = {}
    for network in args.networks.split(","):
        layers = NETWORKS[network].layers
        if args.layers:
            if "," in args.networks:
                raise SystemExit("error: --layers: of one network; name it with --networks")
            layers = (*args.layers.split(","), layers[-1])
        job = open_job(args, network, ["mpp"])
        entry, kernels = measured(job, layers)
        together |= {f"{name} of {network}": kernel for name, kernel in kernels.items()}
        if args.factors:
            entry["factors"] = factors(job, entry["best_layer"])
        keep(network, entry, job)
        print(f"\n{job.data.name}, {network}, {args.scales} scales\n\n{show(entry)}\n", flush=True)
    if len(args.networks.split(",")) > 1:
        values = {
            name: by_folds(kernel, job.data, job.extras.cache) for name, kernel in together.items()
        }
        chosen, found = forward(together, values, job)
        figures, scores = row(stacked([together[name] for name in chosen]), found, job)
        whole = bootstrap({"it": scores}, job.data.targets("test"), lab.measure(job.data))["it"]
        figures["interval"] = [whole.interval.low, whole.interval.high]
        keep("together", {"stack": list(chosen), **figures}, job)
        print(f"all networks: {' + '.join(chosen)}: {100 * figures['test']:.2f}")
    print(f"results: {args.out}")


if __name__ == "__main__":
    main()
