"""MATLAB files made by hand, element by element, to lie in any of them."""

import struct

import numpy as np


def mat_element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def mat_file(*elements):
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    return head + b"".join(elements)


def mat_array(flags, dims, contents, name=b"x"):
    parts = mat_element(6, struct.pack("<II", flags, 0))
    parts += mat_element(5, np.array(dims, "<i4").tobytes()) + mat_element(1, name)
    return mat_element(14, parts + contents)
