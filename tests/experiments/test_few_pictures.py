"""The experiment on few pictures: what is drawn, and what is judged of it."""

import numpy as np
import pytest


def test_drawn_pictures_are_some_of_every_class() -> None:
    from few_pictures import drawn

    targets = np.where(np.arange(30)[:, None] % 3 == np.arange(3), 1, -1)
    rows = drawn(targets, 4, np.random.default_rng(0))
    assert len(set(rows.tolist())) == 12
    assert np.bincount(targets[rows].argmax(axis=1)).tolist() == [4, 4, 4]
    assert rows.tolist() == sorted(rows)
    with pytest.raises(SystemExit, match="--sizes 11: a class has 10 training pictures"):
        drawn(targets, 11, np.random.default_rng(0))
    other = drawn(targets, 4, np.random.default_rng(1))
    assert rows.tolist() != other.tolist()


@pytest.mark.parametrize("taken", ["avg", "ap10+mpp"])
def test_what_is_preferred_is_judged_beside_the_highest(
    taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import few_pictures
    from kernels import Kernel, judged, stacked

    from mpp_jax.svm import accuracy_metric

    rng = np.random.default_rng(0)
    of = np.arange(90) % 3
    targets = np.where(of[:, None] == np.arange(3), 1, -1)

    def kernel(signal: float) -> Kernel:
        x = rng.standard_normal((90, 40)) + signal * np.eye(3, 40)[of]
        x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
        return Kernel(x[:60] @ x[:60].T, x[60:] @ x[:60].T)

    kernels = {"ap10": kernel(2.0), "avg": kernel(0.0), "mpp": kernel(6.0)}
    asked = []

    def preferred(folds):
        asked.append(folds)
        return taken

    monkeypatch.setattr(few_pictures, "preferred", preferred)
    found = few_pictures.judge(kernels, targets[:60], targets[60:], np.arange(60))
    want = {
        name: accuracy_metric(
            judged(stacked([kernels[n] for n in name.split("+")]), targets[:60], 10.0), targets[60:]
        )
        for name in ("ap10", "avg", "mpp", "ap10+mpp")
    }
    assert {name: found[name] for name in ("ap10", "avg", "mpp")} == {
        name: want[name] for name in ("ap10", "avg", "mpp")
    }
    assert want["avg"] < want["ap10"] < want["mpp"]
    assert (found["chosen"], found["best"]) == (taken, want[taken])
    assert found["highest"] >= want["mpp"] - 0.05
    [folds] = asked
    assert list(folds)[:3] == ["ap10", "avg", "mpp"]
    assert len(folds) == 7
