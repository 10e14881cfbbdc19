"""The training pictures of a codebook and those of today: new, gone, renamed, changed."""

import contextlib
import hashlib
from dataclasses import replace

import pytest
from helpers.toy_run import CONFIG, Finished

from mpp_jax.data import Dataset, DecodeError, Item
from mpp_jax.runs.contents import Contents
from mpp_jax.runs.fitted_on import (
    Compared,
    FittedOn,
    check_same_run,
    compare,
    fitted_on,
    other_settings,
    same_contents,
)
from mpp_jax.runs.provenance import Provenance, load_codebooks, save_codebooks

SEEN = FittedOn(
    {"a": "1", "b": "2", "c": "2", "d": None}, [("e", "truncated")], None, broken={"e": "7"}
)
TWO, LAST = {"b": "x", "c": "y"}, {"e": "x"}


class Known(Contents):
    """Contents that were looked up already."""

    def __init__(self, **now: str) -> None:
        super().__init__()
        self._now = dict(now)


def data(*names: str, test: str = "t") -> Dataset:
    items = [*(Item(name, (0,), "train") for name in names), Item(test, (0,), "test")]
    return Dataset("set", ("x",), tuple(items))


@pytest.mark.parametrize(
    ("names", "now", "wanted"),
    [
        ("abcde", {"a": "1", "b": "2", "c": "2"}, Compared((), (), ())),
        ("edcba", {"a": "1", "b": "2", "c": "2"}, Compared((), (), ())),
        ("ac", {"a": "1", "c": "2"}, Compared((), ("b", "d"), ())),  # e never counted
        ("abcdef", {"a": "1", "b": "9", "c": "2", "f": "1"}, Compared(("f",), (), ("b",))),
        # Under other names, one to one.
        ("xcde", {"x": "1", "c": "2"}, Compared((), ("b",), (), renamed={"a": "x"})),
        ("axyde", {"a": "1", "x": "2", "y": "2"}, Compared((), (), (), renamed=TWO)),
        ("axyzde", {"a": "1", "x": "2", "y": "2", "z": "2"}, Compared(("z",), (), (), renamed=TWO)),
        # Also of what is no picture.
        ("abcdx", {"a": "1", "b": "2", "c": "2", "x": "7"}, Compared((), (), (), renamed=LAST)),
    ],
)
def test_compare(names: str, now: dict[str, str], wanted: Compared) -> None:
    contents = Known(**(dict.fromkeys("abcdefxyz", None) | now))  # type: ignore[arg-type]
    assert compare(SEEN, data(*names), contents) == wanted


def test_a_training_picture_that_is_a_test_picture_now_is_lost() -> None:
    found = compare(SEEN, data(*"bcde", test="a"), Known(b="2", c="2"))
    assert found == Compared((), ("a",), ())


def test_labels_count_where_a_codebook_was_trained_by_them() -> None:
    """Also of those that have other names by now; of others nothing is known."""
    names = {"a": ["x"], "b": ["x"], "c": ["y"]}
    contents = Known(z="1", b="2", c="2", d=None, e=None)
    found = compare(SEEN._replace(labels=names), data(*"zbcde"), contents)
    assert found == Compared((), (), (), ("c",), {"a": "z"})


def test_records_of_earlier_versions(done: Finished, tmp_path) -> None:
    """They do not list their pictures: these have to be the very same, in name and content."""
    job = done.job(tmp_path / "run", replace(CONFIG, pooling=("mpp",)))
    codebooks, made = load_codebooks(done.out / "codebook")
    save_codebooks(tmp_path / "codebook", codebooks, made)
    fitted = fitted_on(tmp_path / "codebook")
    assert fitted == FittedOn(None, [], None)
    assert compare(fitted, done.dataset, Contents()) is None
    now = Provenance.of(done.dataset, done.network, made.config, str(done.weights))
    assert other_settings(made, now, None) == []
    gone = replace(done.dataset, items=done.dataset.items[1:])
    less = Provenance.of(gone, done.network, made.config, str(done.weights))
    [phrase] = other_settings(made, less, None)
    assert "training pictures' sha256 was" in phrase
    assert other_settings(made, less, Compared((), ("x",), ())) == []
    training = done.dataset.split("train")
    assert same_contents(fitted, training, Contents())
    assert not same_contents(FittedOn(None, [], "0" * 64), training, Contents())
    check_same_run(job.out, now, done.dataset, Contents())  # nothing rests on anything there


def test_what_is_no_picture_has_a_digest_too(tmp_path) -> None:
    """Of what was in the file, which may be nothing; a file that is not there has none."""
    contents, digests = {"none": b"no picture", "empty": b""}, {}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        digests[name] = hashlib.sha256(content).hexdigest()
    items = [Item(name, (0,), "train", path=tmp_path / name) for name in (*contents, "gone")]
    seen = Contents()
    for item in seen.watched(items):
        with contextlib.suppress(DecodeError):
            item.source()
    assert seen.read(items) == digests
    assert {item.id: seen.now(item) for item in items} == {**digests, "gone": None}
