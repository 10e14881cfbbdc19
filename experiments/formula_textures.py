"""Textures made by formula: periodic fields of 128 x 128 numbers in [0, 1].

Noise of a power spectrum (1/f^a, oriented, or one band of frequencies), spots (its peaks), waves,
tiles, and attractors of iterated function systems. A `Texture` is the formula; its phases, and the
tones of single tiles, are left to chance.
"""

import dataclasses
import math

import numpy as np

TILE = 128
TEXTURES = ("noise", "oriented", "ring", "waves", "tiles", "spots", "fractal")

Array = np.ndarray
Random = np.random.Generator


@dataclasses.dataclass(frozen=True)
class Texture:
    """What a texture is, up to its phase.

    Attributes:
        kind: one of `TEXTURES`.
        frequency: periods a tile.
        angle: orientation in radians (oriented noise).
        spread: of orientations (oriented noise), threshold (spots), or share of a period that is
            dark (waves, tiles).
        exponent: of the falling spectrum.
        sharpness: of the edges between dark and light.
        maps: (m, 6) affine maps of the fractal.
    """

    kind: str
    frequency: float
    angle: float
    spread: float
    exponent: float
    sharpness: float
    maps: Array


def make_texture(rng: Random) -> Texture:
    """Draw the numbers of a texture."""
    kind = str(rng.choice(TEXTURES, p=[0.2, 0.18, 0.1, 0.15, 0.17, 0.1, 0.1]))
    straight = rng.random() < 0.6  # man-made textures follow the axes
    return Texture(
        kind=kind,
        frequency=float(np.exp(rng.uniform(np.log(2), np.log(24)))),
        angle=float(rng.choice([0, math.pi / 2]) if straight else rng.uniform(0, math.pi)),
        spread=float(rng.uniform(0.08, 0.6)),
        exponent=float(rng.uniform(0.6, 2.4)),
        sharpness=float(np.exp(rng.uniform(np.log(0.4), np.log(6)))),
        maps=_affine_maps(rng),
    )


def _affine_maps(rng: Random) -> Array:
    """Draw contractions ``x -> A x + b`` of such singular values that the attractor fills out.

    Anderson and Farrell 2022, "Improving Fractal Pre-training".
    """
    m = int(rng.integers(2, 6))
    turns = rng.uniform(0, 2 * math.pi, (m, 2))
    first = rng.uniform(0.4, 0.9, m)
    second = first * rng.uniform(0.2, 1.0, m)
    maps = np.empty((m, 6), np.float32)
    for i in range(m):
        a = rotation(turns[i, 0]) @ np.diag([first[i], second[i]]) @ rotation(turns[i, 1])
        maps[i] = [*a.ravel(), *rng.uniform(-1, 1, 2)]
    return maps


def rotation(angle: float) -> Array:
    """Return the (2, 2) matrix that turns by an angle in radians."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s], [s, c]])


_FY = np.fft.fftfreq(TILE, 1 / TILE)[:, None]
_FX = np.fft.rfftfreq(TILE, 1 / TILE)[None, :]
RADIUS = np.maximum(np.hypot(_FY, _FX), 0.5).astype(np.float32)
_ANGLE = np.arctan2(_FY, _FX).astype(np.float32)
_GRID = np.arange(TILE, dtype=np.float32) / TILE


def texture_field(texture: Texture, rng: Random) -> Array:
    """Return a periodic sample of a texture, (TILE, TILE) float32 in [0, 1]."""
    t = texture
    if t.kind in ("waves", "tiles"):
        return _tiling(t, rng)
    if t.kind == "fractal":
        return _attractor(t.maps, rng)
    gain = RADIUS**-t.exponent
    if t.kind == "oriented":
        away = np.angle(np.exp(2j * (_ANGLE - t.angle))) / 2
        gain = gain * np.exp(-0.5 * np.square(away / max(0.1, t.spread / 2)))
    elif t.kind in ("ring", "spots"):
        gain = np.exp(-0.5 * np.square(np.log(RADIUS / t.frequency) / 0.25)) / RADIUS
    z = noise(gain, rng)
    if t.kind == "spots":
        return _squash(4 * t.sharpness * (z - 2 * t.spread - 0.3))
    return _squash(t.sharpness * z)


def noise(gain: Array, rng: Random) -> Array:
    """Return periodic Gaussian noise of an amplitude spectrum, mean 0, deviation 1."""
    shape = (TILE, TILE // 2 + 1)
    wave = rng.standard_normal(shape, np.float32) + 1j * rng.standard_normal(shape, np.float32)
    z = np.fft.irfft2(wave * gain, s=(TILE, TILE)).astype(np.float32)
    z -= z.mean()
    return z / max(float(z.std()), 1e-9)


def _squash(z: Array) -> Array:
    return 0.5 + 0.5 * np.tanh(z)


def _tiling(t: Texture, rng: Random) -> Array:
    """Draw waves along one axis, or tiles along two, with a little noise in place and tone."""
    periods = max(1, round(t.frequency / 2))
    bend = 0.15 * min(1.0, 0.3 / t.sharpness) * noise(RADIUS**-2.0, rng)
    across = periods * (_GRID[None, :] + rng.random() + bend)
    if t.kind == "waves":
        z = np.sin(2 * math.pi * across) - 1 + 2 * (1 - t.spread)
        tone = 0.0
    else:
        rows = max(1, round(periods * (0.4 + 1.2 * t.exponent / 2.4)))
        along = rows * (_GRID[:, None] + rng.random() + bend)
        dark = t.spread * 0.7
        edge = np.minimum(_saw(across) / (1 - dark), _saw(along) / (1 - dark))
        z = 2 * edge - 0.6
        # Each tile has a tone of its own.
        tones = rng.uniform(-1, 1, (rows, periods)).astype(np.float32)
        tone = tones[np.floor(along).astype(int) % rows, np.floor(across).astype(int) % periods]
    return np.clip(_squash(2 * t.sharpness * z) + 0.2 * tone, 0, 1).astype(np.float32)


def _saw(x: Array) -> Array:
    """Return the distance to the nearest whole number, times two."""
    return 1 - np.abs(2 * (x - np.floor(x)) - 1)


def _attractor(maps: Array, rng: Random, points: int = 1500, steps: int = 24) -> Array:
    """Return the density of the attractor of an iterated function system, by the chaos game."""
    weights = np.abs(maps[:, 0] * maps[:, 3] - maps[:, 1] * maps[:, 2]) + 0.02
    which = rng.choice(len(maps), (steps, points), p=weights / weights.sum())
    xy = np.zeros((points, 2), np.float32)
    seen = []
    for step in range(steps):
        m = maps[which[step]]
        x = m[:, 0] * xy[:, 0] + m[:, 1] * xy[:, 1] + m[:, 4]
        y = m[:, 2] * xy[:, 0] + m[:, 3] * xy[:, 1] + m[:, 5]
        xy = np.stack([x, y], axis=1)
        if step >= 8:
            seen.append(xy)
    cloud = np.concatenate(seen)
    low, high = np.percentile(cloud, [1, 99], axis=0)
    cell = np.clip((cloud - low) / np.maximum(high - low, 1e-6), 0, 1) * (TILE - 1)
    index = cell[:, 1].astype(int) * TILE + cell[:, 0].astype(int)
    count = np.bincount(index, minlength=TILE * TILE).reshape(TILE, TILE)
    return np.minimum(1, 0.45 * np.sqrt(count)).astype(np.float32)


def sample(fields: Array, offset: Array, u: Array, v: Array) -> Array:
    """Return bilinear values of periodic tiles at texture coordinates, all of one shape."""
    left, top = np.floor(u), np.floor(v)
    across, down = u - left, v - top
    x0, y0 = left.astype(np.int32) % TILE, top.astype(np.int32) % TILE
    x1, y1 = (x0 + 1) % TILE, offset + (y0 + 1) % TILE * TILE
    y0 = offset + y0 * TILE
    upper = fields[y0 + x0] * (1 - across) + fields[y0 + x1] * across
    lower = fields[y1 + x0] * (1 - across) + fields[y1 + x1] * across
    return upper * (1 - down) + lower * down
