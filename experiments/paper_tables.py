"""The paper's tables: rows as data, run through the library, beside the paper's figures.

A table is opened from an archive in its official layout. Everything that is made goes into
``--runs`` (`kept.py`): codebooks, the vectors of each picture (`mpp_jax.storage.store`, shard by
shard), and each row's scores; a command that was killed and is given again goes on there.

Rows are written as the paper writes them. Ours are of ``--network`` and ``--layer``, and of
``--lower`` where the paper stacks pool5; rows that need what is not there are listed with what
they need.
"""

import argparse
import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lab
import numpy as np
from kept import Kept, Scored
from machine import provenance, shared_data
from paper_rows import Row, Table, report

from mpp_jax.config import Run
from mpp_jax.data import Dataset
from mpp_jax.data.features import Features
from mpp_jax.memory import keep_freed_memory
from mpp_jax.numerics import stack_unit_vectors
from mpp_jax.pooling import canonical
from mpp_jax.pooling.notation import Atom
from mpp_jax.progress import Watcher
from mpp_jax.runs import pipeline
from mpp_jax.runs.settings import Job
from mpp_jax.runs.vectors import atoms_of
from mpp_jax.stats.codebook import Codebooks
from mpp_jax.storage.store import Store, StoreError
from mpp_jax.svm import fit_svm, svm_scores

CNN_S, ABOVE = "cnn_s", "fc8"
DSFL = "dsfl"
ARCHIVES = {
    "mit67": (
        "MIT Indoor 67",
        "Images from indoorCVPR_09.tar (groups.csail.mit.edu/vision/LabelMe/NewImages/) with "
        "TrainImages.txt and TestImages.txt (web.mit.edu/torralba/www/indoor.html) beside it",
    ),
    "voc": (
        "PASCAL VOC 2007",
        "VOCdevkit from VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar "
        "(host.robots.ox.ac.uk/pascal/VOC/voc2007/)",
    ),
    "flowers102": (
        "Oxford Flowers 102",
        "jpg from 102flowers.tgz with imagelabels.mat and setid.mat beside it "
        "(www.robots.ox.ac.uk/~vgg/data/flowers/102/)",
    ),
}
"""Name, and what goes where, by the prefix of a data specification."""


def run(table: Table, description: str) -> None:
    """Be a table's script: read the command line, make the rows, print and write them."""
    args = command_line(table, description).parse_args()
    args.data = args.data or default_archive(table.prefix)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    try:
        made = make(table, args, seeds)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(made, indent=1) + "\n")
    print(report(table, made))
    print(f"results: {args.out}")


def command_line(table: Table, description: str) -> argparse.ArgumentParser:
    """Return the lab's options with the paper's settings as defaults, and the tables' own."""
    made = lab.parser(description.split("\n\n")[0], table.name, scales=7)
    made.add_argument("--runs", type=Path, default=Path("runs"), help="what is made is kept there")
    made.add_argument("--seeds", default="0", help="of codebooks, as 0,1,2; the first for all rows")
    made.add_argument("--lower", default="pool5", help="layer that the paper calls Pool5")
    made.add_argument("--cnn-s-weights", metavar="FILE", help="for the rows of CNN-S")
    made.add_argument(
        "--dsfl", metavar="FILE", type=Path, help="DSFL vectors: .npz of ids and vectors"
    )
    made.set_defaults(network="caffenet", l2="none", cache=None)
    return made


def default_archive(prefix: str) -> str:
    """Return the data specification of an archive among the shared data.

    Raises:
        SystemExit: it is not there; one line says what goes where.
    """
    place = shared_data() / prefix
    if place.is_dir():
        return f"{prefix}:{place}"
    name, what = ARCHIVES[prefix]
    raise SystemExit(
        f"error: {name} is not there: give --data {prefix}:PATH, or put it into data/{prefix} of "
        f"the folder that MPP_JAX_SHARED names; wanted is {what}"
    )


def make(table: Table, args: argparse.Namespace, seeds: Sequence[int]) -> dict[str, Any]:
    """Return a table's record: every row with the paper's figure and ours, or what it needs."""
    job = lab.open_job(args, ["mpp"])
    jobs = {False: job}
    if args.cnn_s_weights:
        other = {"network": CNN_S, "weights": args.cnn_s_weights, "layer": None, "quick": False}
        jobs[True] = lab.open_job(argparse.Namespace(**vars(args) | other), ["mpp"])
    dsfl = None if args.dsfl is None else Features.read(DSFL, args.dsfl)
    names: dict[str, str] = {}
    missing: dict[str, str] = {}
    for row in table.rows:
        try:
            names[row.method] = _named(row, jobs.get(row.cnn_s), args.lower, dsfl)
        except LookupError as error:
            missing[row.method] = str(error.args[0])
    scores: dict[str, list[np.ndarray]] = {}
    for cnn_s, base in jobs.items():
        rows = [row.method for row in table.rows if row.cnn_s == cnn_s]
        mine = {method: names[method] for method in rows if method in names}
        for method, found in _by_seed(base, mine, seeds, args.runs, dsfl).items():
            scores[method] = found
    record = _record(table, jobs, names, missing, scores, seeds)
    return record | {"departures": _departures(job, args.limit_per_class)}


def _named(row: Row, job: Job | None, lower: str, dsfl: Features | None) -> str:
    """Return a row's representation as its job spells it.

    Raises:
        LookupError: what it needs is not there.
    """
    if job is None:
        raise LookupError("--cnn-s-weights FILE, the weights of CNN-S")
    if DSFL in row.pooling and dsfl is None:
        raise LookupError("--dsfl FILE, the vectors that the authors of DSFL provide")
    spec, own = job.network.spec, job.config.pyramid.layer
    assert own is not None  # the job is settled
    for name, layer in (("{lower}", lower), ("{above}", ABOVE)):
        if name in row.pooling and (layer not in spec.descriptor_layers or layer == own):
            raise LookupError(
                f"a layer {layer!r} beside {own!r}, which {spec.name} has not"
                + (" (--lower names another)" if name == "{lower}" else "")
            )
    text = row.pooling.format(own=own, lower=lower, above=ABOVE)
    return canonical(text, spec, own, (DSFL,))


def _by_seed(
    job: Job, names: Mapping[str, str], seeds: Sequence[int], runs: Path, dsfl: Features | None
) -> dict[str, list[np.ndarray]]:
    """Return each method's scores, one array a seed; only codebooks know seeds."""
    found: dict[str, list[np.ndarray]] = {method: [] for method in names}
    for seed in seeds:
        plain = [name for name in names.values() if DSFL not in name]
        if seed != seeds[0]:
            plain = [n for n in plain if _has_codebook(lab.with_pooling(job, [n], seed))]
        seeded = lab.with_pooling(job, plain, seed)
        made = stored_scores(seeded, runs)
        if dsfl is not None:
            for name in names.values():
                if DSFL in name:
                    made[name] = _with_features(seeded, name, dsfl, runs)
        for method, name in names.items():
            if name in made:
                found[method].append(made[name])
    return found


def _has_codebook(job: Job) -> bool:
    return any(atom.codebook is not None for atom in atoms_of(job.config))


def stored_scores(job: Job, runs: Path) -> dict[str, np.ndarray]:
    """Return {representation: (N, L) scores of the test pictures}, by way of vectors on disk.

    Memory is bounded, as in ``mpp-jax run``: what does not fit is read from the store.
    """
    kept = Kept(job, runs)
    found = kept.scored(job.config.pooling)
    missing = [name for name in job.config.pooling if name not in found]
    if missing:
        part, watcher = lab.with_pooling(job, missing), Watcher()
        store, codebooks = _encoded(part, kept)
        for name in missing:
            model, infos = pipeline.train(store, codebooks, part.made, [name], watcher=watcher)
            scores = pipeline.score(model, store, watcher=watcher)[name]
            gap = float(np.max(infos[name].relative_gap))
            found[name] = Scored(scores, gap, store.dimension(name))
            kept.keep({name: found[name]})
    return {name: found[name].scores for name in job.config.pooling}


def _encoded(job: Job, kept: Kept) -> tuple[Store, Codebooks]:
    """Return the vectors of a job, made as far as they are not there, and their codebooks."""
    keep_freed_memory()
    assert kept.made is not None  # it has a folder
    wanted = {atom.name for atom in atoms_of(job.config)}
    for place in sorted(kept.made.glob("encodings-*")):
        with contextlib.suppress(StoreError):
            there = Store.open(place).methods
            if wanted <= set(there):
                job, wanted = lab.with_pooling(job, there), set(there)
                break
    codebooks = lab.codebooks_of(job, kept)
    name = hashlib.sha256(" ".join(sorted(wanted)).encode()).hexdigest()[:8]
    place = kept.made / f"encodings-{name}"
    store = pipeline.encode_dataset(
        job.data, job.network, codebooks, job.config, place, activations=job.activations
    )
    if store.skipped:
        first = store.skipped[0]
        raise SystemExit(
            f"error: {len(store.skipped)} pictures cannot be read, the first is {first.id} "
            f"({first.reason}); a table is of whole archives, mend it"
        )
    return store, codebooks


def _with_features(job: Job, name: str, features: Features, runs: Path) -> np.ndarray:
    """Return the scores of a representation stacked with features, from the stored vectors."""
    features.check(job.data)
    extras = replace(job.extras, features={features.name: features})
    config = replace(job.config, pooling=(name,), features=(features.name,))
    stacked = replace(job, config=config, extras=extras).settled()
    kept = Kept(stacked, runs)
    found = kept.scored([name])
    if name not in found:
        plain = lab.with_pooling(job, [a.name for a in atoms_of(stacked.config) if not a.external])
        store, _ = _encoded(plain, Kept(job, runs))

        def vectors(split: str) -> np.ndarray:
            parts = [_part(atom, store, split, features) for atom in atoms_of(stacked.config)]
            return stack_unit_vectors(parts)

        machines, info = fit_svm(vectors("train"), store.targets("train"), job.config.svm.c)
        scores = np.asarray(svm_scores(machines, vectors("test")))
        found[name] = Scored(scores, float(np.max(info.relative_gap)), machines.weights.shape[1])
        kept.keep(found)
    return found[name].scores


def _part(atom: Atom, store: Store, split: str, features: Features) -> np.ndarray:
    return features.of(store.items(split)) if atom.external else store.vectors(atom.name, split)


def _record(
    table: Table,
    jobs: Mapping[bool, Job],
    names: Mapping[str, str],
    missing: Mapping[str, str],
    scores: Mapping[str, list[np.ndarray]],
    seeds: Sequence[int],
) -> dict[str, Any]:
    data, job = jobs[False].data, jobs[False]
    rows = []
    for row in table.rows:
        entry: dict[str, Any] = {"method": row.method, "paper": row.paper}
        if row.method in missing:
            rows.append(entry | {"not_run": f"needs {missing[row.method]}"})
            continue
        each = [lab.figures(one, data) for one in scores[row.method]]
        values = [100 * one[lab.measure(data)] for one in each]
        entry |= {"pooling": names[row.method], "network": jobs[row.cnn_s].network.spec.name}
        entry |= {"ours": float(np.mean(values)), "difference": float(np.mean(values)) - row.paper}
        if len(values) > 1:
            entry |= {"by_seed": values, "deviation": float(np.std(values, ddof=1))}
        if not data.multi_label:
            accuracies = [100 * one["mean_class_accuracy"] for one in each]
            entry["mean_class_accuracy"] = float(np.mean(accuracies))
        if table.classes:
            entry["per_class"] = _per_class(table, row, scores[row.method][0], data)
        rows.append(entry)
    paper = {row.method: row.paper for row in table.rows}
    return {
        "made": provenance(),
        "data": data.name,
        "notes": [*data.warnings, *data.notes],
        "pictures": {s: len(data.split(s)) for s in ("train", "test")},
        "classes": len(data.classes),
        "measure": lab.measure(data),
        "networks": {
            one.network.spec.name: {
                "layer": one.config.pyramid.layer,
                "weights_sha256": one.network.weights_sha256,
            }
            for one in jobs.values()
        },
        "config": job.config.to_dict(),
        "seeds": list(seeds),
        "rows": rows,
        "pairs": [
            {
                "methods": [one, other],
                "paper": paper[one] - paper[other],
                **lab.paired_bootstrap(scores[one][0], scores[other][0], data),
            }
            for one, other in table.pairs
            if one in scores and other in scores
        ],
    }


def _per_class(table: Table, row: Row, scores: np.ndarray, data: Dataset) -> dict[str, Any]:
    """Return {class: paper's AP, ours, difference} of the classes that the data have."""
    ours = lab.per_class(scores, data)
    found = {}
    for name, paper in zip(table.classes, row.per_class, strict=True):
        value = ours.get(name)
        if value is not None:
            found[name] = {"paper": paper, "ours": 100 * value, "difference": 100 * value - paper}
    return found


def _departures(job: Job, limit: int | None) -> list[str]:
    """Return what is not as in the paper's own experiments."""
    usual, config = Run(), job.config
    own = {"network": job.network.spec.name, "layer": config.pyramid.layer}
    theirs = {"network": "caffenet", "layer": "fc7"}
    for name in ("pca", "components", "samples", "l2"):
        own[name] = getattr(config.encoder, name)
        theirs[name] = getattr(usual.encoder, name)
    own["scales"], theirs["scales"] = len(config.pyramid.scales), len(usual.pyramid.scales)
    own["pictures"] = f"{limit} of each class" if limit else "all"
    theirs["pictures"] = "all"
    return [f"{name} {own[name]} ({theirs[name]})" for name in own if own[name] != theirs[name]]
