"""The public weight files of all networks, by name."""

from collections.abc import Iterator, Mapping

from mpp_jax.nets.registry import NETWORKS
from mpp_jax.nets.weight_files import WeightPlace


class _Places(Mapping[str, WeightPlace]):
    """What the networks that are registered at the time state, in their order."""

    def _by_name(self) -> dict[str, WeightPlace]:
        return {place.name: place for spec in NETWORKS.values() for place in spec.files.places}

    def __getitem__(self, name: str) -> WeightPlace:
        return self._by_name()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name())

    def __len__(self) -> int:
        return len(self._by_name())


PLACES: Mapping[str, WeightPlace] = _Places()


def get_place(name: str) -> WeightPlace:
    """Return a public file by name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in PLACES:
        raise ValueError(f"weights: {name!r} is unknown; take one of {', '.join(PLACES)}")
    return PLACES[name]
