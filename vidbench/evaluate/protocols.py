"""How clips become one row of a video, and the protocols of the papers by name."""

from dataclasses import dataclass, replace

from vidbench.data.loading.dataset import FIXED, FixedSampling
from vidbench.data.loading.transforms import CROPS, Crops
from vidbench.data.video.windows import Pad


@dataclass(frozen=True)
class Protocol:
    """How clips become one row of a video; it is stored with every number that comes from it.

    sampling: "spread" (`windows` of them, both ends touched), "sliding" (one every `hop` frames and
    one that touches the end) or "segments" (one clip of the middle frames of equal segments,
    whatever `windows` is); reach_end: whether the ends are touched so, see data.video.windows;
    crops: center, three, five or ten; normalize_clips: each clip's feature to unit length before
    the mean over clips; scale: the frame's short side over the training crop's size; crop: the test
    crop's size over it; cut_first: see transforms.test_crops; pad: what a video shorter than a
    window shows, see data.video.windows."""

    sampling: FixedSampling = "spread"
    windows: int = 4
    hop: int = 15
    crops: Crops = "center"
    normalize_clips: bool = True
    scale: float = 256 / 224
    crop: float = 1.0
    pad: Pad = "last"
    reach_end: bool = True
    cut_first: bool = False

    def __post_init__(self) -> None:
        if self.sampling not in FIXED or self.crops not in CROPS:
            raise ValueError(
                f"a protocol has sampling {', '.join(FIXED)} and crops {', '.join(CROPS)}; "
                f"got {self.sampling!r} and {self.crops!r}."
            )
        if not 0 < self.crop <= self.scale or self.scale < 1:
            raise ValueError(
                "scale, the frame's short side over the training crop's size, is at least 1, and "
                "crop, "
                f"the test crop's size over it, at most scale; got {self.scale} and {self.crop}."
            )


# Where the released code of CoCLR changes colors at random (jitter with p 0.3), these do not.
_COCLR = Protocol(
    sampling="sliding", hop=15, scale=240 / 224, pad="first", reach_end=False, cut_first=True
)
PROTOCOLS = {
    "vidbench": Protocol(),
    # CoCLR's retrieval and probe, eval/main_classifier.py --retrieval, and dataset/lmdb_dataset.py:
    # windows of 32 every 15 frames and none at the very end, 224 of the stored frame's 240 pixels
    # (UCF101, HMDB51), cut before they are scaled, left-padded.
    "coclr_official": _COCLR,
    # CoCLR's test of classifiers, eval/main_classifier.py --ten_crop.
    "coclr_ten_crop": replace(_COCLR, crops="ten"),
    # What is watched while training, and pictures' one test: the window in the middle, 224 of 256
    # pixels.
    "one_view": Protocol(windows=1),
    # The usual test of supervised video nets (SlowFast's paper), which RMS's supplement does not
    # name: 10 windows of 3 crops of 256 pixels, by which published top-1 of Kinetics and
    # Something-Something is to be read.
    "thirty_views": Protocol(windows=10, crops="three", crop=256 / 224),
    # IIC, retrieve_clips.py: 10 clips, 112 of 128 pixels, the plain mean.
    "iic": Protocol(windows=10, normalize_clips=False, scale=128 / 112),
    # MultiTrain, supplement: 3 windows of 3 crops at short side 256. Data sets that are sampled by
    # segments give one clip, so 1 x 3 (`fitting`).
    "multitrain": Protocol(windows=3, crops="three"),
    # README of its released code: Kinetics-400 5 x 1, Moments 2 x 3, Something-Something 1 x 3;
    # there the short side is 256 with one crop and 224 with three.
    "multitrain_k400": Protocol(windows=5, reach_end=False),
    "multitrain_moments": Protocol(windows=2, crops="three", scale=1.0, reach_end=False),
    "multitrain_ssv2": Protocol(sampling="segments", windows=1, crops="three", scale=1.0),
}
