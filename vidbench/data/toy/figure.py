"""The toy world's figure: actions as keyframes, poses as joint angles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# A pose is one row of these numbers. Angles are degrees in the picture plane, positive towards the
# side the figure faces: lean (torso off the vertical), spin (the whole body), arms and legs off
# hanging down, elbows and knees off the upper limb. lift (off the ground) and shift (along it) are
# in body heights.
JOINTS = (
    "lean",
    "spin",
    "arm_near",
    "elbow_near",
    "arm_far",
    "elbow_far",
    "leg_near",
    "knee_near",
    "leg_far",
    "knee_far",
    "lift",
    "shift",
)
NEUTRAL = dict.fromkeys(JOINTS, 0.0) | {
    "arm_near": -10.0,
    "elbow_near": 8.0,
    "arm_far": 10.0,
    "elbow_far": 4.0,
    "leg_near": -7.0,
    "leg_far": 7.0,
}


class Action(NamedTuple):
    seconds: float  # one cycle (or one transition, where the action does not return) at speed 1
    # joint -> (phase, value) keys; neutral at 0 and at 1 if unsaid
    tracks: dict[str, tuple[tuple[float, float], ...]]


# All actions start standing in the neutral pose and, but for sit_down, end there: one still frame
# says little.
ACTIONS = {
    "wave": Action(
        1.3,
        {
            "arm_near": ((0.2, -125), (0.85, -125)),
            "elbow_near": ((0.2, -75), (0.35, -5), (0.5, -75), (0.65, -5), (0.8, -75)),
        },
    ),
    "jumping_jack": Action(
        1.0,
        {
            "arm_near": ((0.08, -10), (0.5, -160), (0.92, -10)),
            "elbow_near": ((0.5, -8),),
            "arm_far": ((0.08, 10), (0.5, 160), (0.92, 10)),
            "elbow_far": ((0.5, 8),),
            "leg_near": ((0.1, -7), (0.5, -32), (0.9, -7)),
            "leg_far": ((0.1, 7), (0.5, 32), (0.9, 7)),
            "lift": ((0.06, 0), (0.26, 0.07), (0.46, 0), (0.54, 0), (0.74, 0.07), (0.94, 0)),
        },
    ),
    "squat": Action(
        1.3,
        {
            "leg_near": ((0.45, 100), (0.55, 100)),
            "knee_near": ((0.45, -135), (0.55, -135)),
            "leg_far": ((0.45, 108), (0.55, 108)),
            "knee_far": ((0.45, -135), (0.55, -135)),
            "lean": ((0.45, 30), (0.55, 30)),
            "shift": ((0.45, -0.12), (0.55, -0.12)),
            "arm_near": ((0.4, 112), (0.6, 112)),
            "arm_far": ((0.4, 122), (0.6, 122)),
        },
    ),
    "walk": Action(
        1.1,
        {
            "leg_near": ((0.25, 30), (0.5, -2), (0.75, -32)),
            "knee_near": ((0.1, -50), (0.25, -4), (0.75, -18)),
            "leg_far": ((0.25, -32), (0.5, 2), (0.75, 30)),
            "knee_far": ((0.25, -18), (0.6, -50), (0.75, -4)),
            "arm_near": ((0.25, -38), (0.75, 34)),
            "elbow_near": ((0.25, 12), (0.75, 38)),
            "arm_far": ((0.25, 34), (0.75, -38)),
            "elbow_far": ((0.25, 38), (0.75, 12)),
            "lean": ((0.2, 5), (0.8, 5)),
        },
    ),
    "kick": Action(
        1.2,
        {
            "leg_near": ((0.2, -32), (0.45, 95), (0.55, 95), (0.85, -7)),
            "knee_near": ((0.2, -65), (0.42, -4), (0.6, -8), (0.85, -5)),
            "lean": ((0.2, 8), (0.45, -22), (0.58, -20)),
            "leg_far": ((0.45, -4),),
            "arm_near": ((0.2, 25), (0.45, -48), (0.6, -40)),
            "arm_far": ((0.2, -25), (0.45, 42), (0.6, 36)),
        },
    ),
    "punch": Action(
        1.2,
        {
            "arm_near": ((0.14, -15), (0.32, 96), (0.46, -15), (0.84, -15)),
            "elbow_near": ((0.14, 125), (0.32, 0), (0.46, 125), (0.84, 125)),
            "arm_far": ((0.14, 10), (0.5, 10), (0.66, 98), (0.8, 10)),
            "elbow_far": ((0.14, 120), (0.5, 120), (0.66, 0), (0.8, 115)),
            "lean": ((0.14, -4), (0.32, 14), (0.48, -2), (0.66, 14), (0.82, 0)),
            "leg_near": ((0.15, -22), (0.85, -22)),
            "leg_far": ((0.15, 22), (0.85, 22)),
            "knee_far": ((0.15, -18), (0.85, -18)),
        },
    ),
    "bow": Action(
        1.3,
        {
            "lean": ((0.08, 0), (0.45, 88), (0.57, 88), (0.94, 0)),
            "shift": ((0.45, -0.08), (0.57, -0.08)),
            "arm_near": ((0.45, 72), (0.57, 72)),
            "arm_far": ((0.45, 82), (0.57, 82)),
        },
    ),
    "clap": Action(
        1.2,
        {
            "arm_near": ((0.15, -88), (0.32, -42), (0.49, -88), (0.66, -42), (0.83, -88)),
            "elbow_near": ((0.15, 12), (0.32, 150), (0.49, 12), (0.66, 150), (0.83, 12)),
            "arm_far": ((0.15, 88), (0.32, 42), (0.49, 88), (0.66, 42), (0.83, 88)),
            "elbow_far": ((0.15, -12), (0.32, -150), (0.49, -12), (0.66, -150), (0.83, -12)),
        },
    ),
    "cartwheel": Action(
        1.4,
        {
            "spin": ((0.08, 0), (0.92, 360), (1, 360)),
            "arm_near": ((0.18, -155), (0.82, -155)),
            "arm_far": ((0.18, 155), (0.82, 155)),
            "leg_near": ((0.3, -40), (0.7, -40)),
            "leg_far": ((0.3, 40), (0.7, 40)),
        },
    ),
    "throw": Action(
        1.2,
        {
            "arm_near": ((0.3, 172), (0.4, 172), (0.58, 62), (0.72, 20), (0.9, -10)),
            "elbow_near": ((0.3, 85), (0.4, 90), (0.56, 2), (0.72, 12)),
            "arm_far": ((0.34, 70), (0.58, -35), (0.75, -20)),
            "elbow_far": ((0.34, 10), (0.58, 25)),
            "lean": ((0.36, -20), (0.6, 32), (0.72, 28)),
            "leg_far": ((0.34, 36), (0.62, 26), (0.8, 20)),
            "knee_far": ((0.34, -22), (0.6, -14)),
            "leg_near": ((0.34, -14), (0.62, -30), (0.8, -20)),
            "knee_near": ((0.34, -10), (0.62, -6)),
        },
    ),
    "sit_down": Action(
        1.4,
        {
            "leg_near": ((0.5, 92), (1, 122)),
            "knee_near": ((0.5, -128), (1, -72)),
            "leg_far": ((0.5, 100), (1, 130)),
            "knee_far": ((0.5, -128), (1, -82)),
            "lean": ((0.5, 30), (1, -10)),
            "shift": ((0.5, -0.15), (1, -0.24)),
            "arm_near": ((0.5, 62), (1, 58)),
            "elbow_near": ((1, 12),),
            "arm_far": ((0.5, 72), (1, 68)),
            "elbow_far": ((1, 12),),
        },
    ),
    # private to the other worlds
    "hop": Action(
        1.0,
        {
            "leg_near": ((0.22, 60), (0.45, -4), (0.62, -4), (0.8, 55)),
            "leg_far": ((0.22, 66), (0.45, 4), (0.62, 4), (0.8, 60)),
            "knee_near": ((0.22, -100), (0.45, -6), (0.62, -6), (0.8, -90)),
            "knee_far": ((0.22, -100), (0.45, -6), (0.62, -6), (0.8, -90)),
            "lean": ((0.22, 28), (0.45, 0), (0.62, 0), (0.8, 22)),
            "lift": ((0.3, 0), (0.53, 0.2), (0.76, 0)),
            "shift": ((0.22, -0.06), (0.5, 0), (0.8, -0.05)),
            "arm_near": ((0.22, -50), (0.5, 158), (0.8, 10)),
            "arm_far": ((0.22, -42), (0.5, 168), (0.8, 20)),
        },
    ),
    "lunge": Action(
        1.4,
        {
            "leg_near": ((0.42, 82), (0.55, 82), (0.92, -7)),
            "knee_near": ((0.2, -70), (0.42, -84), (0.55, -84)),
            "leg_far": ((0.42, -38), (0.55, -38)),
            "knee_far": ((0.42, -48), (0.55, -48)),
            "arm_near": ((0.4, -30), (0.58, -30)),
            "elbow_near": ((0.4, 95), (0.58, 95)),
            "arm_far": ((0.4, 30), (0.58, 30)),
            "elbow_far": ((0.4, -95), (0.58, -95)),
        },
    ),
    "stretch": Action(
        1.5,
        {
            "arm_near": ((0.2, -168), (0.82, -168)),
            "arm_far": ((0.2, 168), (0.82, 168)),
            "lean": ((0.18, 0), (0.38, 34), (0.64, -34), (0.84, 0)),
            "shift": ((0.38, -0.05), (0.64, 0.05)),
            "leg_near": ((0.2, -20), (0.82, -20)),
            "leg_far": ((0.2, 20), (0.82, 20)),
        },
    ),
    "dance": Action(
        1.2,
        {
            "arm_near": ((0.25, -150), (0.5, -55), (0.75, -55)),
            "elbow_near": ((0.25, 10), (0.5, 70), (0.75, 95)),
            "arm_far": ((0.25, 55), (0.5, 55), (0.75, 150)),
            "elbow_far": ((0.25, -95), (0.5, -70), (0.75, -10)),
            "lean": ((0.25, 16), (0.75, -16)),
            "shift": ((0.25, 0.1), (0.75, -0.1)),
            "leg_near": ((0.25, -34), (0.5, -10), (0.75, 8)),
            "leg_far": ((0.25, -8), (0.5, 10), (0.75, 34)),
            "knee_far": ((0.25, -40), (0.5, -8), (0.75, -6)),
            "knee_near": ((0.75, 40),),
        },
    ),
}
REVERSED = {"stand_up": "sit_down"}  # the twins: the same path of poses, traversed backwards
# they do not return to their first pose, so a clip holds one transition
ONE_WAY = frozenset({"sit_down", "stand_up"})


def pose(action: str, phase: np.ndarray, amplitude: float = 1.0) -> np.ndarray:
    """Return an action's joint values, by cosine ease between keys: float64 [T,len(JOINTS)]; ours.

    pose("stand_up", p) is pose("sit_down", 1 - p).

    Args:
        phase: [T] in [0, 1].
        amplitude: Scales the departure from the neutral pose (never spin, which must come round).

    Raises:
        ValueError: the action is unknown.
    """
    phase = np.asarray(phase, float)
    if action in REVERSED:
        return pose(REVERSED[action], 1.0 - phase, amplitude)
    if action not in ACTIONS:
        raise ValueError(
            f"wanted one of the actions {', '.join((*ACTIONS, *REVERSED))}; got {action!r}"
        )
    columns = []
    for joint in JOINTS:
        rest = NEUTRAL[joint]
        keys = [(0.0, rest), *ACTIONS[action].tracks.get(joint, ())]
        if keys[-1][0] < 1:
            keys.append((1.0, rest))
        times, values = np.array(keys, float).T
        right = np.clip(np.searchsorted(times, phase, side="right"), 1, len(times) - 1)
        share = np.clip((phase - times[right - 1]) / (times[right] - times[right - 1]), 0, 1)
        eased = (1 - np.cos(np.pi * share)) / 2
        value = values[right - 1] + eased * (values[right] - values[right - 1])
        columns.append(value if joint == "spin" else rest + amplitude * (value - rest))
    return np.stack(columns, axis=-1)


@dataclass(frozen=True)
class Body:
    """Lengths in body heights; `girth` scales every thickness."""

    torso: float = 0.29
    thigh: float = 0.235
    shin: float = 0.235
    arm: float = 0.175
    forearm: float = 0.185
    head: float = 0.085
    shoulders: float = 0.075
    hips: float = 0.038
    girth: float = 1.0


def skeleton(poses: np.ndarray, body: Body) -> dict[str, np.ndarray]:
    """Place the joints by forward kinematics: joint name -> [T,2]; ours.

    Unit: body heights, x towards the facing side, y up from the ground. The lowest of hands, feet,
    seat and crown touches the ground (plus lift), so crouching, sitting and turning over need no
    height of their own.

    Args:
        poses: [T,len(JOINTS)].
    """
    turn = dict(zip(JOINTS, np.deg2rad(poses).T, strict=True))

    def hanging(
        angle: np.ndarray, length: float
    ) -> np.ndarray:  # a limb `angle` off hanging straight down
        return length * np.stack([np.sin(angle), -np.cos(angle)], axis=-1)

    upright = turn["lean"] + turn["spin"]
    up = -hanging(-upright, 1.0)
    across = np.stack([up[:, 1], -up[:, 0]], axis=-1)
    level = np.stack([np.cos(turn["spin"]), -np.sin(turn["spin"])], axis=-1)
    points = {"hip": np.zeros((len(poses), 2)), "neck": up * body.torso}
    points["head"] = points["neck"] + up * (0.03 + body.head)
    for side, sign in (("near", -1), ("far", 1)):
        shoulder = points["neck"] - 0.02 * up + sign * body.shoulders * across
        elbow = shoulder + hanging(turn[f"arm_{side}"] - upright, body.arm)
        fore = turn[f"arm_{side}"] + turn[f"elbow_{side}"] - upright
        socket = sign * body.hips * level
        knee = socket + hanging(turn[f"leg_{side}"] - turn["spin"], body.thigh)
        shin = turn[f"leg_{side}"] + turn[f"knee_{side}"] - turn["spin"]
        foot = knee + hanging(shin, body.shin)
        points |= {
            f"shoulder_{side}": shoulder,
            f"elbow_{side}": elbow,
            f"hand_{side}": elbow + hanging(fore, body.forearm),
            f"socket_{side}": socket,
            f"knee_{side}": knee,
            f"foot_{side}": foot,
            f"toe_{side}": foot + hanging(shin + np.pi / 2, 0.06),
        }
    low = [points[name][:, 1] for name in ("hand_near", "hand_far", "foot_near", "foot_far")]
    low += [points["hip"][:, 1] - 0.06, points["head"][:, 1] - body.head]
    column = {name: poses[:, JOINTS.index(name)] for name in ("lift", "shift")}
    offset = np.stack([column["shift"], column["lift"] - np.min(low, axis=0)], axis=-1)
    return {name: point + offset for name, point in points.items()}
