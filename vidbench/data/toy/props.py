"""Props of the mixed world: what the figure holds or stands next to, and a moving distractor.

A prop is visible in one still frame and says part of the label there. It is held in the near hand
or stands on the ground next to the figure. The distractor says nothing about the label."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

BITS = 4  # fixed-point places of OpenCV's drawing
PROPS = ("ball", "box", "stick", "umbrella")
PLACES = ("hand", "ground")


@dataclass(frozen=True)
class Prop:
    """A prop of one source video: "ball/hand" is a ball in the hand, "box/ground" a box on the ground."""

    kind: str
    color: np.ndarray  # RGB float [3]
    scale: float

    @property
    def name(self) -> str:
        """One of PROPS."""
        return self.kind.partition("/")[0]

    @property
    def held(self) -> bool:
        """Whether it is in the hand."""
        return self.kind.endswith("/hand")


@dataclass(frozen=True)
class Distractor:
    """A disc that swings from side to side behind the figure; lengths in frame sizes."""

    color: np.ndarray
    radius: float
    y: float
    swing: float
    hertz: float
    phase: float


def draw_distractor(
    canvas: np.ndarray, one: Distractor, time: float, shift: np.ndarray, side: float
) -> None:
    """Draw the distractor at a time.

    Args:
        canvas: uint8 [H,W,3].
        time: Seconds.
        shift: The camera's shift (x, y), in canvas pixels.
        side: The frame's size in canvas pixels.
    """
    x = 0.5 + one.swing * np.sin(2 * np.pi * one.hertz * time + one.phase)
    _disc(canvas, np.array([x, one.y]) * side + shift, one.radius * side, one.color)


def draw_prop(
    canvas: np.ndarray,
    prop: Prop,
    at: dict[str, np.ndarray],
    foot: np.ndarray,
    facing: float,
    height: float,
) -> None:
    """Draw the prop over the figure.

    Args:
        at: The figure's joints in canvas pixels.
        foot: Where the figure stands, in canvas pixels.
        height: The figure's height in canvas pixels.
    """
    length = height * prop.scale
    if prop.held:
        along = at["hand_near"] - at["elbow_near"]
        along = along / max(np.linalg.norm(along), 1e-6)
        start = at["hand_near"]
    else:  # upright on the ground, in front of the figure
        along = np.array([0.0, -1.0])
        start = foot + np.array([0.42 * facing * height, 0.0])
    DRAWN[prop.name](canvas, start, along, length, prop)


def _ball(canvas: np.ndarray, start: np.ndarray, along: np.ndarray, size: float, prop: Prop):
    _disc(canvas, start + 0.13 * size * along, 0.13 * size, prop.color)


def _box(canvas: np.ndarray, start: np.ndarray, along: np.ndarray, size: float, prop: Prop):
    across = np.array([-along[1], along[0]])
    corners = [
        start + 0.15 * size * x * across + 0.3 * size * y * along
        for x, y in ((-1, 0), (1, 0), (1, 1), (-1, 1))
    ]
    _filled(canvas, corners, prop.color)


def _stick(canvas: np.ndarray, start: np.ndarray, along: np.ndarray, size: float, prop: Prop):
    _line(
        canvas,
        start - 0.2 * size * along * prop.held,
        start + 0.5 * size * along,
        0.05 * size,
        prop.color,
    )


def _umbrella(canvas: np.ndarray, start: np.ndarray, along: np.ndarray, size: float, prop: Prop):
    top = start + 0.42 * size * along
    _line(canvas, start, top, 0.03 * size, prop.color * 0.7)
    across = np.array([-along[1], along[0]])
    angles = np.linspace(0, np.pi, 13)
    rim = [
        top + 0.3 * size * (np.cos(a) * across + 0.7 * (np.sin(a) - 0.3) * along) for a in angles
    ]
    _filled(canvas, rim, prop.color)


DRAWN = {"ball": _ball, "box": _box, "stick": _stick, "umbrella": _umbrella}


def _fixed(point: np.ndarray) -> tuple[int, int]:
    return round(float(point[0]) * (1 << BITS)), round(float(point[1]) * (1 << BITS))


def _disc(canvas: np.ndarray, center: np.ndarray, radius: float, color: np.ndarray) -> None:
    size = max(1, round(radius * (1 << BITS)))
    cv2.circle(canvas, _fixed(center), size, color.tolist(), -1, cv2.LINE_AA, BITS)


def _line(
    canvas: np.ndarray, a: np.ndarray, b: np.ndarray, width: float, color: np.ndarray
) -> None:
    thick = max(1, round(width))
    cv2.line(canvas, _fixed(a), _fixed(b), color.tolist(), thick, cv2.LINE_AA, BITS)


def _filled(canvas: np.ndarray, corners: list[np.ndarray], color: np.ndarray) -> None:
    points = np.array([_fixed(corner) for corner in corners], np.int32)
    cv2.fillPoly(canvas, [points], color.tolist(), cv2.LINE_AA, BITS)
