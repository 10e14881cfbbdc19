"""Scene-15 with SqueezeNet: every pooling method at 1..S scales.

Data: ``$MPP_JAX_SHARED/data`` (default ../shared/data): ``scene15/{train,test}/<class>/*.jpg``, the
split of Lazebnik et al. 2006 (1,500 training and 2,985 test pictures), and the pretrained
SqueezeNet v1.0. The split is used as it stands: 16 files of the public set are exact duplicates,
11 of them across the split. The pictures are a copy that its publisher resized to 200 x 200 pixels.

    python experiments/scene15.py                    5 scales: about an hour on 2 cores
    python experiments/scene15.py --scales 4         half an hour
    python experiments/scene15.py --quick            10 pictures a class, 2 scales: 1 minute

The activations of all pictures are computed once and kept in ``--activations`` as float16, 4 GB for
five scales (`lab.py`). A codebook is fitted to all scales 1-S, as ``mpp-jax run --scales 1-S``
does; with it pictures are encoded from 1, 2, ... S scales, and SVMs trained for each. At five
scales this is done for S = 4 and S = 5.

Results: ``results/scene15.json``, and the table in ``README.md`` beside this file. To be expected
at four scales: figures within half a point of ``EXPECTED`` or above, mpp at least 1 above fc7 and
1.5 above nfk.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lab
from machine import provenance

from mpp_jax.config import Encoder
from mpp_jax.runs.settings import Job
from mpp_jax.stats.codebook import CodebookInfo

METHODS = ("fc7", "ap10", "avg", "nfk", "csf", "mpp", "mpp+fc7", "mpp+avg")
EXPECTED = {"fc7": 87.9, "avg": 89.0, "nfk": 87.2, "mpp": 89.3, "mpp+fc7": 90.4, "mpp+avg": 90.7}
"""Top-1 in per cent at four scales."""


def command_line() -> argparse.ArgumentParser:
    """Return the options: the lab's, and this experiment's own."""
    parser = lab.parser(__doc__.split("\n\n")[0], "scene15", scales=5)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument(
        "--activations", dest="cache", type=Path, help="as --cache; default: kept for this run only"
    )
    parser.add_argument("--tolerance", type=float, default=Encoder().tolerance, help="of EM")
    parser.add_argument("--only-last", action="store_true", help="all scales only, no curve")
    parser.set_defaults(cache=None)
    return parser


def open_job(args: argparse.Namespace) -> Job:
    """Open the experiment's job with the tolerance that was asked for."""
    job = lab.open_job(args, args.methods.split(","))
    encoder = replace(job.config.encoder, tolerance=args.tolerance)
    return replace(job, config=replace(job.config, encoder=encoder))


def with_scales(job: Job, scales: int, encoded: range) -> Job:
    """Return the job of codebooks of scales 1..``scales``.

    Args:
        job: the experiment's; its representations are the methods.
        scales: that the codebooks are fitted to.
        encoded: numbers of scales that every method is to encode.
    """
    curves = [lab.ranged(method, scales) for method in job.config.pooling]
    names = dict.fromkeys(row[n - 1] for n in encoded for row in curves)
    pyramid = replace(job.config.pyramid, scales=tuple(range(scales)))
    return replace(job, config=replace(job.config, pyramid=pyramid, pooling=tuple(names)))


def row(
    job: Job, scales: int, n: int, info: CodebookInfo | None, scored: dict[str, lab.Scored]
) -> dict[str, Any]:
    """Return the figures of every method with scales 1..n encoded."""
    figures = {}
    for method in job.config.pooling:
        found = scored[lab.ranged(method, scales)[n - 1]]
        figures[method] = lab.figures(found.scores, job.data) | {
            "relative_gap": found.relative_gap,
            "dimension": found.dimension,
        }
    shown = {method: round(100 * f["top1"], 2) for method, f in figures.items()}
    print(f"scales 1-{n}: top-1 {shown}", flush=True)
    facts = info and {
        "samples": info.samples,
        "explained_variance": info.explained,
        "em_steps": int(info.em.iterations),
    }
    return {
        "codebook_scales": scales,
        "encoded_scales": n,
        "codebook": facts,
        "methods": figures,
    }


def main() -> None:
    args = command_line().parse_args()
    started, seconds, table = time.perf_counter(), {}, []

    def clock(name: str, begun: float) -> None:
        seconds[name] = time.perf_counter() - begun
        print(f"{name}: {seconds[name]:.1f} s", flush=True)

    with tempfile.TemporaryDirectory(dir=args.out.parent) as temporary:
        args.cache = args.cache or Path(temporary)
        job = open_job(args)
        most = args.scales  # 2 where --quick has set it
        begun = time.perf_counter()
        lab.describe_all(job)
        clock("describe", begun)
        for fitted in [most] if args.quick or args.only_last else range(min(4, most), most + 1):
            encoded = range(fitted if args.only_last else 1, fitted + 1)
            fitting = with_scales(job, fitted, encoded)
            begun = time.perf_counter()
            codebooks, infos = lab.fit(fitting)
            clock(f"fit to {fitted} scales", begun)
            begun = time.perf_counter()
            scored = lab.judged(fitting, codebooks)
            clock(f"codebook {fitted}, encode {encoded[0]} to {fitted}", begun)
            info = infos.get("default.fisher")
            table += [row(job, fitted, n, info, scored) for n in encoded]
    encoder = job.config.encoder
    record = {
        "made": provenance(),
        "pictures": {split: len(job.data.split(split)) for split in ("train", "test")},
        "encoder": {"l2": encoder.l2, "pca": encoder.pca, "components": encoder.components},
        "results": table,
        "expected_at_4_scales": EXPECTED,
        "seconds": seconds,
        "wall_seconds": time.perf_counter() - started,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"results: {args.out}")


if __name__ == "__main__":
    main()
