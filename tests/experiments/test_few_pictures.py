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
    other = drawn(targets, 4, np.random.default_rng(1))
    assert rows.tolist() != other.tolist()


@pytest.mark.parametrize("telling", ["ap10", "mpp"])
def test_the_first_is_taken_where_the_others_tell_nothing_more(telling: str) -> None:
    from few_pictures import judge
    from kernels import Kernel

    rng = np.random.default_rng(0)
    of = np.arange(90) % 3
    targets = np.where(of[:, None] == np.arange(3), 1, -1)

    def kernel(signal: float) -> Kernel:
        x = rng.standard_normal((90, 40)) + signal * np.eye(3, 40)[of] * 6
        x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
        return Kernel(x[:60] @ x[:60].T, x[60:] @ x[:60].T)

    kernels = {name: kernel(float(name == telling)) for name in ("ap10", "avg", "mpp")}
    found = judge(kernels, targets[:60], targets[60:], np.arange(60))
    assert found[telling] > 0.8
    if telling == "ap10":
        assert found["chosen"] == "ap10"
    else:
        assert "mpp" in found["chosen"].split("+")
    assert found["best"] > 0.8
    assert set(found) == {"ap10", "avg", "mpp", "highest", "best", "chosen"}
