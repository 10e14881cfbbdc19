"""The demonstration: the whole method on generated scenes or on one's own pictures, in minutes."""

from dataclasses import replace
from pathlib import Path

from mpp_jax.cli import stages
from mpp_jax.cli.console import Output
from mpp_jax.config import Encoder, Pyramid, Run
from mpp_jax.data import Dataset
from mpp_jax.data.clutter import Clutter, open_clutter
from mpp_jax.nets import Network

POOLING = ("mpp", "nfk", "csf", "avg", "fc7")
"""The representations that are compared; the first one headlines."""
MAPS = 6
"""Test pictures that the report shows with confidence maps."""


def demo_data(scenes: int, seed: int, output: Output) -> Dataset:
    """Generated scenes, as many for training as for the test."""
    data = open_clutter(Clutter(train=scenes, test=scenes, seed=seed))
    output.say(
        f"clutter: {scenes} training and {scenes} test scenes of {len(data.classes)} classes of "
        "objects, rendered as they are read"
    )
    return data


def demo_config(network: Network, scales: tuple[int, ...], seed: int) -> Run:
    """Settings of the paper, smaller: 64 Gaussians over at most 64 dimensions."""
    channels = network.spec.layer().channels
    encoder = Encoder(pca=min(64, channels), components=64, samples=100_000, l2="before")
    run = Run(pyramid=Pyramid(scales), encoder=encoder, pooling=POOLING, seed=seed)
    return replace(run, svm=replace(run.svm, c=10.0))


def run_demo(
    data: Dataset,
    network: Network,
    weights: str | None,
    scales: tuple[int, ...],
    seed: int,
    out: Path,
    output: Output,
) -> int:
    """Run everything on ``data`` and write a report with confidence maps; see `stages.run`."""
    config = demo_config(network, scales, seed)
    return stages.run(data, network, weights, config, out, output, maps=MAPS)
