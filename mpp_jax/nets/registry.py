"""Name -> description of every network."""

import inspect
from typing import Any, TypeVar

from mpp_jax.nets.caffenet import ALEXNET, CAFFENET
from mpp_jax.nets.caffenet_mini import CAFFENET_MINI
from mpp_jax.nets.chatfield import CNN_M, CNN_S
from mpp_jax.nets.checks import check_name, check_spec
from mpp_jax.nets.efficientnet_lite0 import EFFICIENTNET_LITE0
from mpp_jax.nets.function_net import FunctionNet
from mpp_jax.nets.sift_spec import SIFT_SPEC
from mpp_jax.nets.spec import NetSpec
from mpp_jax.nets.squeezenet import SQUEEZENET, SQUEEZENET_V11
from mpp_jax.nets.torchvision_alexnet import ALEXNET_TORCHVISION
from mpp_jax.nets.vgg16 import VGG16

NETWORKS: dict[str, NetSpec] = {
    spec.name: spec
    for spec in (
        CAFFENET_MINI,
        SQUEEZENET,
        SQUEEZENET_V11,
        EFFICIENTNET_LITE0,
        CAFFENET,
        ALEXNET,
        CNN_S,
        CNN_M,
        ALEXNET_TORCHVISION,
        VGG16,
    )
}
"""All that commands and `load_network` know, in the order in which they are listed."""

PACKAGED = frozenset((*NETWORKS, SIFT_SPEC.name))
"""Those that are part of this package."""

DEFAULT_NETWORK = CAFFENET_MINI.name
"""Used until the user names another: its weights are part of the package."""

Description = TypeVar("Description", bound=Any)


def get_spec(name: str) -> NetSpec:
    """Return the description of a network, or of dense SIFT, which takes a network's place.

    Raises:
        ValueError: there is none of that name.
    """
    known = {**NETWORKS, SIFT_SPEC.name: SIFT_SPEC}
    if name not in known:
        raise ValueError(
            f"network: {name!r} is unknown; take one of {', '.join(sorted(known))}. "
            "(One of a file of yours needs --plugin FILE.)"
        )
    return known[name]


def register_network(network: Description) -> Description:
    """Add a network to those that every command and `load_network` know.

    It stands over a function without arguments that returns the description, or takes the
    description itself: a list of layers (`mpp_jax.nets.NetSpec`), or any JAX function of pictures
    (`mpp_jax.nets.FunctionNet`). A complete file with a list of layers::

        import mpp_jax as mpp
        from mpp_jax.nets import Conv, NetSpec, Pool, Preprocessing, WeightFiles

        COLOURS = Preprocessing("RGB", mean=(124.0, 117.0, 104.0), std=(58.0, 57.0, 57.0))


        @mpp.register_network
        def tiny():
            return NetSpec(
                name="tiny",
                side=35,
                layers=(
                    Conv("conv1", 16, 5, stride=2),
                    Pool("pool1", 3, 2),
                    Conv("conv2", 24, 3, pad=1),
                    Conv("fc3", 32, 7, dense=True),
                ),
                default_layer="fc3",
                descriptor_layers=("conv2", "fc3"),
                preprocessing=(("native", COLOURS), ("torchvision", COLOURS)),
                files=WeightFiles(
                    torchvision=(
                        ("conv1", "features.0"),
                        ("conv2", "features.3"),
                        ("fc3", "classifier"),
                    )
                ),
            )

    With these lines in ``tiny.py``, ``mpp-jax run DATA --plugin tiny.py --network tiny --weights
    FILE`` takes a ``.safetensors`` file of ``conv1/kernel`` (5, 5, 3, 16), ``conv1/bias`` (16,),
    ..., or a torch file of ``features.0.weight`` (16, 3, 5, 5) and so on; ``mpp-jax weights
    import`` makes the file unnecessary.

    A complete file with a Flax module, whose stride and window are probed::

        import flax.linen as nn
        import jax
        import mpp_jax as mpp
        from mpp_jax.nets import FunctionNet

        shape = (1, 64, 64, 3)
        trunk = nn.Sequential([nn.Conv(16, (5, 5), 4, "VALID"), nn.relu, nn.Conv(32, (3, 3))])


        @mpp.register_network
        def mine():
            return FunctionNet(
                name="mine",
                side=64,
                function=lambda params, x: {"top": trunk.apply({"params": params}, x / 255)},
                like=lambda: trunk.init(jax.random.key(0), jax.numpy.zeros(shape))["params"],
            )

    Args:
        network: the function or the description; see `mpp_jax.nets.NetSpec`,
            `mpp_jax.nets.WeightFiles` and `mpp_jax.nets.FunctionNet` for what can be stated.

    Returns:
        What was given.

    Raises:
        ValueError: no description, an unsound one (`mpp_jax.nets.checks.check_spec`,
            `mpp_jax.nets.function_net.function_spec`), one that does
            not say what input belongs to weights in this package's own names, or a name that is
            taken.
    """
    spec = _described(network)
    check_spec(spec)
    if spec.preprocessing_for("native") is None:
        raise ValueError(
            f"preprocessing: network {spec.name!r} does not say what files in this package's own "
            "names expect; add ('native', Preprocessing(...))"
        )
    if spec.name not in PACKAGED and repr(NETWORKS.get(spec.name)) == repr(spec):
        NETWORKS[spec.name] = spec  # the same once more, as by running a notebook's cell twice
        return network
    if spec.name in NETWORKS or spec.name == SIFT_SPEC.name:
        raise ValueError(f"name: there is a network {spec.name!r} already; choose another name")
    taken = [place.name for other in NETWORKS.values() for place in other.files.places]
    for place in spec.files.places:
        if place.name in taken:
            raise ValueError(
                f"files: there are weights {place.name!r} already; choose another name"
            )
        taken.append(place.name)
    NETWORKS[spec.name] = spec
    return network


def _described(network: Any) -> NetSpec:
    wanted = (
        "register_network wants a NetSpec or FunctionNet, or a function without arguments that "
        "returns one"
    )
    given = network
    if not isinstance(given, NetSpec | FunctionNet):
        if not callable(given):
            raise ValueError(f"{wanted}; got {given!r}")
        try:
            inspect.signature(given).bind()
        except TypeError as error:
            raise ValueError(f"{wanted}; this one has arguments ({error})") from error
        given = given()
        if not isinstance(given, NetSpec | FunctionNet):
            raise ValueError(f"{wanted}; this one returned {given!r}")
    if isinstance(given, NetSpec):
        return given
    from mpp_jax.nets.function_spec import function_spec  # jax: not for lists of layers

    check_name(given)
    return function_spec(given)
