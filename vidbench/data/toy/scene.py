"""Clothes, background, camera and light of a source video; drawing a figure into frames."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from vidbench.data.toy.figure import Body, skeleton
from vidbench.data.toy.props import Distractor, Prop, draw_distractor, draw_prop

LUMA = np.array([0.299, 0.587, 0.114])
OVERSAMPLE = (
    2  # drawn at twice the size, then averaged: thicknesses of a fraction of a pixel, soft edges
)
STROKES = 20  # in a background, margins included
MARGIN = 0.25  # background beyond each border, in frame sizes, for the camera to move over
BACKGROUNDS = ("blobs", "stripes", "blocks")


@dataclass(frozen=True)
class Look:
    """What siblings share: all that is random about a source except when its clips start."""

    body: Body
    colors: dict[str, np.ndarray]  # part -> RGB float [3]
    background: np.ndarray  # uint8 [H + margins, W + margins, 3]
    sleeves: bool
    height: float  # of the standing figure, in frame sizes
    place: tuple[float, float]  # where it stands: x of the middle, y of the ground, in frame sizes
    mirror: bool
    camera: str
    # [4, 3] amplitude, frequency (Hz) and phase of the camera's x, y and zoom, and of the light
    sway: np.ndarray
    gain: float
    prop: Prop | None = None
    distractor: Distractor | None = None


def draw_look(
    size: int, background: str, camera: str, rng: np.random.Generator, prop: str = ""
) -> Look:
    """Draw the appearance of one source video at random; ours.

    Args:
        size: Pixels.
        background: Of BACKGROUNDS.
        camera: "drift", "zoom", "hand" or "shake".
        prop: Of props.PROPS; then a distractor moves too.
    """
    uniform = rng.uniform
    # figure and ground are on two sides of middle gray; otherwise a small network sees no figure at all
    dark_ground = rng.random() < 0.5
    ground, cloth = ((45, 100), (165, 235)) if dark_ground else ((150, 205), (20, 85))
    skin = np.array([235, 190, 160]) * uniform(0.45, 1.0)
    colors = {
        "shirt": _color(uniform(*cloth), rng),
        "trousers": _color(uniform(*cloth), rng),
        "skin": skin,
        "hair": _color(uniform(20, 90) if not dark_ground else uniform(110, 200), rng, 25),
        "shoes": _color(uniform(*cloth), rng),
    }
    body = Body(
        torso=uniform(0.27, 0.31),
        thigh=uniform(0.22, 0.25),
        shin=uniform(0.22, 0.25),
        arm=uniform(0.165, 0.19),
        forearm=uniform(0.175, 0.2),
        head=uniform(0.075, 0.095),
        shoulders=uniform(0.065, 0.085),
        girth=uniform(0.85, 1.2),
    )
    sway = _sway(camera, rng)
    look = Look(
        body,
        colors,
        _background(size, background, ground, rng),
        bool(rng.random() < 0.6),
        uniform(0.6, 0.78),
        (uniform(0.42, 0.58), uniform(0.9, 0.96)),
        bool(rng.random() < 0.5),
        camera,
        sway,
        uniform(0.9, 1.1),
    )
    if not prop:
        return look
    held = Prop(prop, _color(uniform(*cloth), rng), uniform(0.9, 1.15))
    other = Distractor(
        _color(uniform(*cloth), rng),
        uniform(0.03, 0.05),
        uniform(0.1, 0.8),
        uniform(0.25, 0.45),
        uniform(0.15, 0.5),
        uniform(0, 2 * np.pi),
    )
    return replace(look, prop=held, distractor=other)


def _sway(camera: str, rng: np.random.Generator) -> np.ndarray:
    """Amplitude, frequency (Hz) and phase [4, 3] of the camera's x, y and zoom, and of the
    light."""
    uniform = rng.uniform
    moves: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "drift": (uniform(0.01, 0.04, 2), uniform(0.08, 0.22, 2)),
        "zoom": (uniform(0, 0.006, 2), np.array([0.1, 0.1])),
        "hand": (uniform(0.006, 0.014, 2), uniform(0.35, 0.7, 2)),
    }
    # drawn only here, so that the other cameras draw the same numbers as before
    shake = (uniform(0.01, 0.03, 2), uniform(0.5, 2.0, 2)) if camera == "shake" else None
    amplitude, hertz = shake or moves[camera]
    zoom = (uniform(0.03, 0.07), uniform(0.1, 0.2)) if camera == "zoom" else (0.0, 0.1)
    sway = np.array(
        [
            (amplitude[0], hertz[0], 0),
            (amplitude[1], hertz[1], 0),
            (*zoom, 0),
            (uniform(0, 0.08), uniform(0.1, 0.4), 0),
        ]
    )
    sway[:, 2] = uniform(0, 2 * np.pi, 4)
    return sway


def paint(
    poses: np.ndarray,
    times: np.ndarray,
    look: Look,
    size: int,
    nudge: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Paint frames of a source video: uint8 RGB [T,size,size,3]; ours.

    Args:
        poses: [T,joints].
        times: [T], seconds.
        nudge: Moves the figure, in frame sizes.

    Raises:
        ValueError: the background is unknown.
    """
    # [T, 4]
    wave = look.sway[:, 0] * np.sin(2 * np.pi * look.sway[:, 1] * times[:, None] + look.sway[:, 2])
    points = skeleton(poses, look.body)
    facing = -1.0 if look.mirror else 1.0
    foot = np.array(look.place) + nudge
    frames = np.empty((len(times), size, size, 3), np.uint8)
    for t, (dx, dy, dz, light) in enumerate(wave):
        zoom = 1 + dz
        # frame = zoom * (world - middle) + middle + shift: one camera for the background and the
        # figure
        shift = np.array([dx, dy])
        canvas = _view(look.background, size * OVERSAMPLE, zoom, shift)
        side = zoom * size * OVERSAMPLE
        placed = {}
        for name, xy in points.items():
            world = foot + look.height * xy[t] * (facing, -1.0)
            placed[name] = ((world - 0.5) * zoom + 0.5 + shift) * size * OVERSAMPLE
        if look.distractor:
            draw_distractor(canvas, look.distractor, times[t], shift * size * OVERSAMPLE, side)
        _figure(canvas, placed, look, look.height * side)
        if look.prop:
            held_at = ((foot - 0.5) * zoom + 0.5 + shift) * size * OVERSAMPLE
            draw_prop(canvas, look.prop, placed, held_at, facing, look.height * side)
        small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
        frames[t] = cv2.convertScaleAbs(small, alpha=look.gain * (1 + light))
    return frames


def _color(luma: float, rng: np.random.Generator, chroma: float = 85.0) -> np.ndarray:
    direction = rng.uniform(-1, 1, 3)
    direction -= direction @ LUMA
    return np.clip(luma + chroma * direction, 0, 255)


def _field(side: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise about 0, [side, side]: a few random numbers, enlarged."""
    noise = rng.standard_normal((cells, cells)).astype(np.float32)
    return cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)


def _background(
    size: int, kind: str, luma: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """A soft texture of moderate contrast, uint8 RGB, a margin larger than the frame on each
    side."""
    side = round(size * (1 + 2 * MARGIN))
    a, b, c = (_color(rng.uniform(*luma), rng, 55) for _ in range(3))
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    mix: np.ndarray
    spots: np.ndarray
    if kind == "blobs":
        mix = _field(side, 4, rng) + 0.7 * _field(side, 8, rng)
        spots = 0.8 * _field(side, 6, rng) + 0.8 * _field(side, 13, rng)
    elif kind == "stripes":  # a wall of stripes above a plain floor
        angle, pitch = rng.uniform(-0.6, 0.6), rng.uniform(5, 11)
        mix = 1.3 * np.sin(2 * np.pi * pitch * (x * np.cos(angle) + y * np.sin(angle)))
        floor = y > rng.uniform(0.6, 0.72)
        mix, spots = (
            np.where(floor, 0.4 * _field(side, 5, rng), mix),
            np.where(floor, 1.5, -1.0).astype(np.float32),
        )
    elif kind == "blocks":  # house fronts: random rectangles
        mix, spots = (np.zeros((side, side), np.float32) for _ in range(2))
        for _ in range(28):
            left, top = rng.integers(-side // 6, side, 2)
            wide, high = rng.integers(side // 14, side // 3, 2)
            target = mix if rng.random() < 0.6 else spots
            target[max(top, 0) : top + high, max(left, 0) : left + wide] = rng.uniform(-1.6, 1.6)
    else:
        raise ValueError(f"wanted a background of {', '.join(BACKGROUNDS)}; got {kind!r}")
    mix, spots = (0.5 + 0.5 * np.tanh(f)[..., None] for f in (mix, spots))
    picture = (a * (1 - mix) + b * mix) * (1 - 0.5 * spots) + c * 0.5 * spots
    _clutter(picture, luma, rng)
    soft = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), side / 90)
    return np.clip(soft, 0, 255).astype(np.uint8)


def _clutter(picture: np.ndarray, luma: tuple[float, float], rng: np.random.Generator) -> None:
    """Limb-like strokes in the background, so that edges of one still frame do not give the pose
    away; in place."""
    side = len(picture)
    towards = 255 if luma[0] < 128 else 0  # a third as far off the ground as clothes are
    for _ in range(STROKES):
        start = rng.uniform(0, side, 2)
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.08, 0.22) * side
        end = start + length * np.array([np.cos(angle), np.sin(angle)])
        color = _color(rng.uniform(*luma) * 0.7 + towards * 0.3, rng, 40).tolist()
        (x0, y0), (x1, y1) = np.rint([start, end]).astype(int).tolist()
        cv2.line(
            picture,
            (x0, y0),
            (x1, y1),
            color,
            max(1, round(rng.uniform(0.025, 0.045) * side)),
            cv2.LINE_AA,
        )


def _view(background: np.ndarray, side: int, zoom: float, shift: np.ndarray) -> np.ndarray:
    """The background through the camera, [side, side, 3]."""
    scale = zoom * side * (1 + 2 * MARGIN) / len(background)
    move = side * (0.5 + shift) - scale * len(background) / 2
    matrix = np.array([[scale, 0, move[0]], [0, scale, move[1]]])
    return cv2.warpAffine(
        background, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )


def _figure(canvas: np.ndarray, at: dict[str, np.ndarray], look: Look, height: float) -> None:
    """Draw the figure, far limbs first and darker; `at` and its `height` in canvas pixels."""
    bits = 4  # fixed-point places of OpenCV's drawing: joints land between pixels

    def fixed(name: str) -> tuple[int, int]:
        return round(at[name][0] * (1 << bits)), round(at[name][1] * (1 << bits))

    def limb(a: str, b: str, width: float, part: str, shade: float) -> None:
        color = (look.colors[part] * shade).tolist()
        thick = max(1, round(width * look.body.girth * height))
        cv2.line(canvas, fixed(a), fixed(b), color, thick, cv2.LINE_AA, bits)

    def disc(a: str, radius: float, part: str, shade: float = 1.0) -> None:
        size = max(1, round(radius * height * (1 << bits)))
        cv2.circle(
            canvas, fixed(a), size, (look.colors[part] * shade).tolist(), -1, cv2.LINE_AA, bits
        )

    def leg(side: str, shade: float) -> None:
        limb(f"foot_{side}", f"toe_{side}", 0.055, "shoes", shade)
        limb(f"knee_{side}", f"foot_{side}", 0.075, "trousers", shade)
        limb(f"socket_{side}", f"knee_{side}", 0.09, "trousers", shade)

    def arm(side: str, shade: float) -> None:
        limb(f"elbow_{side}", f"hand_{side}", 0.058, "shirt" if look.sleeves else "skin", shade)
        disc(f"hand_{side}", 0.036, "skin", shade)
        limb(f"shoulder_{side}", f"elbow_{side}", 0.07, "shirt", shade)

    leg("far", 0.78)
    arm("far", 0.78)
    limb("hip", "neck", 0.15, "shirt", 0.86)
    limb("shoulder_near", "shoulder_far", 0.075, "shirt", 0.86)
    limb("socket_near", "socket_far", 0.1, "trousers", 0.86)
    leg("near", 1.0)
    disc("head", look.body.head, "skin")
    facing = -1.0 if look.mirror else 1.0
    up = (at["head"] - at["neck"]) / max(np.linalg.norm(at["head"] - at["neck"]), 1e-6)
    forward = np.array([-up[1], up[0]]) * facing
    at["hair"] = at["head"] + height * look.body.head * (0.42 * up - 0.3 * forward)
    disc("hair", look.body.head * 0.74, "hair")
    arm("near", 1.0)
