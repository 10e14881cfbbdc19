"""What the engine uses of Ray, in this process: everything is pickled, and workers can die."""

import pickle
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """The worker died."""


class RayTaskError(RayError):
    """The worker raised ``cause``."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"in the worker\n{cause}")
        self.cause = cause


class Reference:
    """The outcome of a call: bytes, an error, or (None) never."""

    def __init__(self, outcome: bytes | Exception | None) -> None:
        self.outcome = outcome


class FakeRay:
    """The module; calls come back in a random order, the same each time.

    Args:
        cpus: of the cluster.
        fate: is asked at each call (number of the worker, method) and may return an error, or
            "never" for a call that is never answered.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
    cloudpickle = pickle

    def __init__(self, cpus: int = 4, fate: Callable[[int, str], Any] = lambda *_: None) -> None:
        self.cpus = cpus
        self.fate = fate
        self._random = random.Random(1)
        self.actors: list[Actor] = []
        self.killed: list[Actor] = []

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.cpus)}

    def put(self, value: Any) -> Reference:
        return Reference(pickle.dumps(value))

    def get(self, reference: Reference) -> Any:
        if isinstance(reference.outcome, Exception):
            raise reference.outcome
        assert reference.outcome is not None
        return pickle.loads(reference.outcome)

    def wait(
        self, references: Sequence[Reference], num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Reference], list[Reference]]:
        ready = [each for each in references if each.outcome is not None]
        self._random.shuffle(ready)
        assert len(ready) >= num_returns or timeout is not None, "would wait for ever"
        return ready[:num_returns], []

    def remote(self, **options: Any) -> Callable[[type], Any]:
        def decorate(kind: type) -> Any:
            return SimpleNamespace(remote=lambda: Actor(self, kind))

        return decorate

    def kill(self, actor: "Actor") -> None:
        self.killed.append(actor)


class Actor:
    """A handle whose calls are answered before they return."""

    def __init__(self, ray: FakeRay, kind: type) -> None:
        self._ray, self._kind, self._self = ray, kind, kind()
        self._number = len(ray.actors)
        ray.actors.append(self)

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Reference:
            sent = pickle.dumps(arguments)
            fate = self._ray.fate(self._number, name)
            if fate == "never":
                return Reference(None)
            if isinstance(fate, Exception):
                self._self = self._kind()  # born again
                return Reference(fate)
            try:
                # Arguments that are references arrive as what they stand for.
                received = [
                    self._ray.get(each) if isinstance(each, Reference) else each
                    for each in pickle.loads(sent)
                ]
                return Reference(pickle.dumps(getattr(self._self, name)(*received)))
            except Exception as error:
                return Reference(RayTaskError(error))

        return SimpleNamespace(remote=remote, options=lambda **_: SimpleNamespace(remote=remote))
