"""Who does the work of a command: this process, or the workers of a Ray cluster."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from mpp_jax.cli.compilation import programs_kept
from mpp_jax.cli.console import Console
from mpp_jax.memory import keep_freed_memory
from mpp_jax.runs.ray_engine import Cluster, RayEngine
from mpp_jax.runs.settings import Job


def cluster_of(options: dict[str, Any]) -> Cluster | None:
    """Return where workers run, as the options say; None where this process does all.

    Raises:
        ValueError: options of another engine, or Ray is not installed.
    """
    chosen = {name: options[name] for name in ("address", "workers", "devices_per_worker")}
    if options["engine"] != "ray":
        given = [f"--{name.replace('_', '-')}" for name, value in chosen.items() if value]
        if given:
            raise ValueError(f"{', '.join(given)}: for --engine ray, which was not given")
        return None
    if importlib.util.find_spec("ray") is None:
        raise ValueError("--engine ray: needs the package ray; pip install 'mpp-jax[ray]'")
    plugins = click.get_current_context().params.get("plugins", ())
    return Cluster(chosen["address"], chosen["workers"], chosen["devices_per_worker"] or 1, plugins)


@contextmanager
def engine_of(job: Job, console: Console) -> Iterator[RayEngine | None]:
    """Give what spreads the work of a settled job while the body runs; None for this process."""
    cluster = job.extras.cluster
    if cluster is None:
        yield None
        return
    data, network, config, cache = job.data, job.network, job.config, job.extras.cache
    with RayEngine(
        cluster, data, network, config, cache=cache, around=_as_command, say=console.say
    ) as engine:
        yield engine


@contextmanager
def _as_command() -> Iterator[None]:
    """Let a worker be as a command's own process is: memory, and compiled programs."""
    keep_freed_memory()
    with programs_kept(lambda line: None):
        yield
