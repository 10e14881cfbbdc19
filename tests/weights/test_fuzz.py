"""Fuzzing: every reader loads a file or says why not, in bounded memory.

Sound files with bytes changed, cut, spliced or made up must either load or raise
`WeightsError`; anything else (another exception, a crash, memory far beyond the budget) fails.
``MPP_JAX_FUZZ`` sets the number of inputs per reader (and takes other ones than the default).
"""

import os
import resource
import struct

import numpy as np
import pytest
from helpers.weights_samples import BUDGET, CAFFE_BLOBS, CAFFENET, FILES, SQUEEZENET, TORCH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpp_jax.weights.formats import parse_weights
from mpp_jax.weights.source import WeightsError

EXAMPLES = int(os.environ.get("MPP_JAX_FUZZ", "60"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="MPP_JAX_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def structural_offsets(name):
    """Return where a file keeps its structure: early bytes, tags, pickles, directories."""
    data = FILES[name][0]
    whole = np.frombuffer(data, np.uint8)
    if name.startswith("caffe"):
        marks = [data.find(n.encode()) for n in CAFFE_BLOBS]
    elif name.startswith(("torch", "npz")):
        marks = [0, data.find(b"PK\x01\x02"), data.find(b"PK\x05\x06"), data.find(b"features")]
    else:
        marks = [0, 128, 256, 700]
    near = [m + d for m in marks if m >= 0 for d in range(-24, 400) if 0 <= m + d < len(whole)]
    return sorted(set(near))


OFFSETS = {name: structural_offsets(name) for name in FILES}


@st.composite
def damaged(draw, name):
    """Return a file with some of its bytes changed, removed, repeated or made up."""
    data = bytearray(FILES[name][0])
    for _ in range(draw(st.integers(1, 4))):
        offsets = OFFSETS[name]
        at = draw(st.sampled_from(offsets) | st.integers(0, max(0, len(data) - 1)))
        at = min(at, len(data))
        match draw(st.sampled_from(["flip", "set", "cut", "insert", "number", "splice"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "set" if at < len(data):
                data[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
            case "cut":
                del data[at : at + draw(st.integers(1, 64) | st.just(len(data)))]
            case "insert":
                data[at:at] = draw(st.binary(max_size=16))
            case "number":  # a huge or negative size
                value = draw(st.sampled_from([2**31 - 1, 2**32 - 1, 2**30, 0, 2**24]))
                data[at : at + 4] = struct.pack("<I", value)
            case "splice":
                other = draw(st.sampled_from(offsets))
                data[at:at] = data[other : other + draw(st.integers(1, 48))]
    return Damaged(data)


class Damaged(bytes):
    """Bytes that are not printed when a test fails; hypothesis prints how to make them again."""

    def __repr__(self):
        return f"<{len(self)} bytes>"


def outcome(read, data):
    """Run a reader; return its error, or None. All but `WeightsError` escapes, a failed test."""
    try:
        source = read(data)
    except WeightsError as error:
        message = str(error)
        assert message
        assert "\n" not in message
        assert len(message) < 2100
        return message
    assert all(isinstance(v, np.ndarray) for v in source.arrays.values())
    return None


@pytest.mark.parametrize("name", sorted(FILES))
def test_sound_files_load(name):
    data, read = FILES[name]
    assert outcome(read, data) is None


@pytest.mark.parametrize("name", sorted(FILES))
def test_damaged_files_load_or_say_why(name):
    read = FILES[name][1]
    errors = []

    @FUZZ
    @given(damaged(name))
    def run(data):
        errors.append(outcome(read, data))

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert sum(e is not None for e in errors) > len(errors) // 10  # the damage does hit
    assert 1024 * grown < 8 * BUDGET


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_truncation_is_an_error(name):
    data, read = FILES[name]
    points = {*range(0, 300, 7), *range(300, len(data), max(1, len(data) // 150)), len(data) - 1}
    whole = {key: value.shape for key, value in read(data).arrays.items()}
    for at in sorted(points):
        try:
            part = read(data[:at])
        except WeightsError:
            continue
        # Caffe and MATLAB files are sequences: cut between two items they are whole and shorter.
        assert len(part.arrays) < len(whole), at
        assert name.startswith("caffe"), at


def test_made_up_bytes():
    @FUZZ
    @given(
        st.binary(max_size=400), st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"MATLAB 5.0"])
    )
    def run(data, head):
        for spec in (CAFFENET, TORCH, SQUEEZENET):
            outcome(lambda d, s=spec: parse_weights(d, s), head + data)
        for _, read in FILES.values():
            outcome(read, head + data)

    run()
