"""One run with several seeds: each a whole run in a folder of its own, and what they come to."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpp_jax.cli import stages
from mpp_jax.cli.console import DONE, Console
from mpp_jax.describe.memory_cache import union
from mpp_jax.describe.picture_cache import PictureCache
from mpp_jax.files import exclusive
from mpp_jax.memory import available_memory
from mpp_jax.report.comparing import compare
from mpp_jax.report.comparison import Deviating
from mpp_jax.report.comparison_page import write_page
from mpp_jax.report.comparison_tables import as_text
from mpp_jax.report.finished_runs import SEEDS, FinishedRun, read_runs
from mpp_jax.report.metrics_json import RESULT_KEYS, write_metrics
from mpp_jax.report.page import check_results_place
from mpp_jax.runs.contents import Contents
from mpp_jax.runs.provenance import CODEBOOK
from mpp_jax.runs.settings import Job
from mpp_jax.runs.sizing import settled_components
from mpp_jax.runs.vectors import atoms_of, fitting_wants, wanted_of
from mpp_jax.storage.bundle import check_place

_OURS = re.compile(r"\..*|seed-\d+|metrics\.json|report\.html")


def run_seeds(jobs: Sequence[Job], out: Path, console: Console, *, maps: int = 0) -> int:
    """Run jobs that differ in seed and folder alone, on activations that are computed once.

    Args:
        jobs: one for each seed; each as `stages.run` takes it.
        out: folder that theirs lie in, for what they come to.
        console: hears of it.
        maps: as for `stages.run`.
    """
    jobs = [job.settled() for job in _of_one_size(jobs)]
    check_place(out)
    _check_seeds_folder(out)
    check_results_place(out)
    status = DONE
    with exclusive(out):
        shared = _shared(jobs, console)
        for job in jobs:
            console.say(f"seed {job.config.seed}: {job.out}")
            # Of its own: a run's seconds are those of its seed.
            own = Console(console.quiet)
            status = max(status, stages.run(job, own, maps=maps, shared=shared))
        runs = read_runs([job.out for job in jobs])
        write_metrics(out, mean_metrics(runs))
        console.say("intervals by bootstrap over the test pictures")
        tables = compare(runs, each=lambda todo: console.bar(todo, "compare", "seed"))
        links = {f"Seed {run.seed}": f"{run.folder.name}/report.html" for run in runs}
        page = write_page(out / "report.html", tables, links)
    console.say(as_text(tables))
    console.wrote("metrics", out / "metrics.json")
    console.wrote("report", page)
    return status


def _of_one_size(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs with one number of Gaussians: seeds may draw more or fewer pictures."""
    asked = jobs[0].config.encoder.components
    fewest = min(len(job.data.split("train")) for job in jobs)
    places = [place for job in jobs for place in (job.out, job.out / CODEBOOK)]
    components = settled_components(asked, fewest, *places)
    encoder = replace(jobs[0].config.encoder, components=components)
    return [replace(job, config=replace(job.config, encoder=encoder)) for job in jobs]


def _check_seeds_folder(out: Path) -> None:
    """Raise unless a folder is absent, empty, or of an earlier run of several seeds."""
    theirs = [place for place in (out.iterdir() if out.is_dir() else ()) if not _ours(place)]
    if theirs:
        raise ValueError(
            f"{out}: holds {theirs[0].name}, and is no folder of several seeds; give a new folder"
        )


def _ours(place: Path) -> bool:
    return _OURS.fullmatch(place.name) is not None


def _shared(jobs: Sequence[Job], console: Console) -> stages.Shared:
    """Return where all seeds take their activations from, and the digests of pictures."""
    first = jobs[0]
    activations, contents = stages.watched(first, console), Contents()
    if first.extras.cache is not None:
        return stages.Shared(activations, contents)
    config = first.config
    wants = union(fitting_wants(config), wanted_of(atoms_of(config), config.pyramid.scales))
    pictures = len({item.id for job in jobs for item in job.data.items})
    room = available_memory() // 2
    cache = PictureCache(activations, wants, room, pictures, console.say)
    return stages.Shared(cache, contents)


def mean_metrics(runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """Return what ``metrics.json`` says of several seeds: means, and ``deviation`` beside them.

    ``results`` has the means in the form of every run, of what all have, ``deviation`` the sample
    deviations in the same form (None with one seed), ``seeds`` the seeds; the settings are those of
    the first.
    """
    first = runs[0].metrics
    results: dict[str, Any] = {}
    deviation: dict[str, Any] = {}
    common = [m for m in runs[0].methods if all(m in run.metrics["results"] for run in runs)]
    for method in common:
        held = [run.metrics["results"][method] for run in runs]
        both = {
            key: Deviating.of([one[key] for one in held])
            for key in RESULT_KEYS
            if key != "per_class"
        }
        classes = dict.fromkeys(name for one in held for name in one["per_class"])
        each = {n: Deviating.of([one["per_class"].get(n) for one in held]) for n in classes}
        results[method] = {key: value.mean for key, value in both.items()}
        results[method]["per_class"] = {name: value.mean for name, value in each.items()}
        deviation[method] = {key: value.deviation for key, value in both.items()}
        deviation[method]["per_class"] = {name: value.deviation for name, value in each.items()}
    seconds: dict[str, float] = {}
    skipped: dict[str, Any] = {}
    for run in runs:
        for stage, spent in run.metrics["seconds"].items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
        skipped |= {entry["path"]: entry for entry in run.metrics["pictures"]["skipped"]}
    return {
        **{key: first[key] for key in ("data", "network", "weights_sha256", "config")},
        SEEDS: [run.seed for run in runs],
        "results": results,
        "deviation": deviation,
        "seconds": seconds,
        "pictures": {**first["pictures"], "skipped": list(skipped.values())},
    }
