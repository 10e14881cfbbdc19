"""The options that say who does the work of a command. Nothing heavy is imported."""

import os
from typing import Any

import click


def read_engine(context: click.Context, parameter: click.Parameter, engine: str) -> str:
    """Return the engine, after what has to be set before JAX starts."""
    if engine == "ray":
        # Workers may share a GPU with this process: nobody takes all its memory at once.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return engine


_OPTIONS = (
    click.option(
        "--engine",
        default="local",
        show_default=True,
        type=click.Choice(["local", "ray"]),
        callback=read_engine,
        help="What describes and encodes pictures: this process, or workers that Ray runs "
        "(pip install 'mpp-jax[ray]'), on this machine or on a cluster whose machines share the "
        "folders of pictures, output and cache. Pictures may be at addresses too, if every machine "
        "can read these, and so may the output, which workers then hand back. The results are the "
        "same. A worker that dies is started again. Workers keep no activations in memory: without "
        "--cache, training pictures are described for the codebook and once more for their "
        "vectors, and with --seeds by each seed.",
    ),
    click.option(
        "--address",
        metavar="ADDRESS",
        help="Of a Ray cluster, for --engine ray: HOST:PORT of its head, or auto. [default: "
        "RAY_ADDRESS; else one is started on this machine and stopped]",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Workers of --engine ray. [default: as many as the cluster's GPUs serve; without GPUs "
        "one for two CPU cores]",
    ),
    click.option(
        "--devices-per-worker",
        type=click.IntRange(min=1),
        metavar="N",
        help="GPUs of each worker of --engine ray. [default: 1]",
    ),
)


def engine_options(function: Any) -> Any:
    """Give a command the options of the engine."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
