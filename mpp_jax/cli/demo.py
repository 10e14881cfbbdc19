"""The demonstration: the whole method on generated scenes or on one's own pictures, in minutes."""

from dataclasses import replace
from pathlib import Path

from mpp_jax.cli import stages
from mpp_jax.cli.console import Console
from mpp_jax.config import Encoder, Pyramid, Run
from mpp_jax.data import Dataset
from mpp_jax.data.clutter import Clutter, open_clutter
from mpp_jax.nets import Network
from mpp_jax.runs.provenance import CODEBOOK
from mpp_jax.runs.settings import Job
from mpp_jax.runs.sizing import default_pooling

POOLING = ("best", "mpp", "nfk", "csf", "avg", "fc7")
"""The representations that are compared; what the first one comes to headlines."""
MAPS = 6
"""Test pictures that the report shows with confidence maps."""


REMARK = (
    "The objects run from an eighth of the picture to the whole of it. The network in the package, "
    "trained on pictures made by formula, hardly sees the small ones. With the default settings "
    "pooling the activations of all scales (mpp, nfk, csf) beats one crop (fc7), but the mean of "
    "the scales' own Fisher vectors (mpp) does not lead one Fisher vector of all scales (nfk), as "
    "it does with SqueezeNet, on photographs and on these scenes (--network squeezenet)."
)


def demo_data(scenes: int, seed: int, own: bool, console: Console) -> Dataset:
    """Return generated scenes, as many for training as for the test.

    ``own`` says that the network is the one in the package.
    """
    data = open_clutter(Clutter(train=scenes, test=scenes, seed=seed))
    if own:
        data = replace(data, notes=(*data.notes, REMARK))
    console.say(
        f"clutter: {scenes} training and {scenes} test scenes of {len(data.classes)} classes of "
        "objects, rendered as they are read"
    )
    return data


def demo_config(network: Network, scales: tuple[int, ...], seed: int) -> Run:
    """Return the settings of the paper, smaller: 64 Gaussians over at most 64 dimensions."""
    channels = network.spec.layer().channels
    encoder = Encoder(pca=min(64, channels), components=64, samples=100_000, l2="before")
    run = Run(Pyramid(scales), encoder, pooling=POOLING, seed=seed, dtype="auto")
    return replace(run, svm=replace(run.svm, c=10.0))


def demo_job(
    data: Dataset,
    network: Network,
    weights: str | None,
    scales: tuple[int, ...],
    seed: int,
    out: Path,
    console: Console,
) -> Job:
    """Return the job of the demonstration; what was made before in its folder stays of use."""
    config = demo_config(network, scales, seed)
    count = len(data.split("train"))
    pooling, line = default_pooling(count, out, out / CODEBOOK, names=POOLING)
    if line:
        console.say(line)
    return Job(data, network, replace(config, pooling=pooling), out, weights)


def run_demo(job: Job, console: Console) -> int:
    """Run everything and write a report with confidence maps; see `stages.run`."""
    return stages.run(job, console, maps=MAPS)
