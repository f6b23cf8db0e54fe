"""TV-L1 flow as a plain OpenCV script does it: what `vidbench flow` is measured against. Arguments:
OUT VIDEO ..."""

import sys
from pathlib import Path

import cv2
import numpy as np


def main(out: Path, videos: list[str]) -> None:
    """One process, one thread: decode, TV-L1 at its defaults, clip at 20 pixels, a color JPEG a
    pair as CoCLR's."""
    cv2.setNumThreads(1)
    solver = cv2.optflow.DualTVL1OpticalFlow_create()
    for video in videos:
        folder = out / Path(video).stem
        folder.mkdir(parents=True)
        capture, before, number = cv2.VideoCapture(video), None, 0
        while True:
            there, frame = capture.read()
            if not there:
                break
            gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
            if before is not None:
                flow = solver.calc(before, gray, None)
                picture = np.full((*gray.shape, 3), 128, np.uint8)
                picture[..., :2] = np.rint((np.clip(flow, -20, 20) + 20) * (255 / 40))
                cv2.imwrite(str(folder / f"{number:05d}.jpg"), picture)
                number += 1
            before = gray


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
