"""MViTv2 for video: MultiTrain's plain form, the official one, position embeddings of any size.

A clip becomes tokens [B,N,D] on a grid (T',H',W'), N = T'H'W', which shrinks while D grows, stage
by stage. Sources: Li et al. 2022 (MViTv2), MultiTrain's supplement, table 2, its released code
(JunweiLiang/MultiTrain), and torchvision's mvit_v2_s. Four switches and a number lead from
MultiTrain's form to the official ones:

- `relative`: learned tables of relative positions in each attention, instead of one absolute
  embedding of space and one of time behind the patches;
- `class_token`: one more token, which is then all that the net returns. As in torchvision, its own
  query is not added to what it attends to, unless by `token_query`, as in the image nets of
  facebookresearch/mvit and timm;
- `normed_skip`: where the channels grow, the skip path projects the block's normalized input, not
  its input;
- `pool_eps`: of the norms in the pools of attention. MultiTrain's code leaves PyTorch's 1e-5 there;
  official is 1e-6, as in all other norms of both.

On the skip path, table 2's caption speaks of a 3-D convolution; the released code has a max pool
there, and so have we.

Training on images before video (MultiTrain's supplement, 2.3 and table 3): a net for clips of one
frame is the 2-D net, for its convolutions see one frame through their middle slice, and
`MViT.inflated_state` makes of it, or of a published image net, the start of a net for longer clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vidbench.models.attention import (
    Attention,
    AutocastNorm,
    Block,
    Grid,
    norm_layer,
    stretched,
    strided,
)
from vidbench.models.backbone import Backbone

PATCH, PATCH_STRIDE = (3, 7, 7), (2, 4, 4)
INFLATIONS = ("center", "mean")
NORMS = ("float32", "autocast")


@dataclass(frozen=True)
class Form:
    """What makes a net, as plain values; see `mvit_v2`."""

    depths: tuple[int, ...] = (2, 3, 16, 3)
    width: int = 96
    heads: int = 1
    kv_stride: int = 8
    frames: int = 32
    size: int = 224
    relative: bool = False
    class_token: bool = False
    token_query: bool = False
    normed_skip: bool = False
    pool_eps: float = 1e-5
    stochastic_depth: float = 0.0
    norms: str = "float32"

    def __post_init__(self) -> None:
        depths = tuple(self.depths) if isinstance(self.depths, Sequence) else ()
        if len(depths) != 4 or any(not isinstance(n, int) or n < 1 for n in depths):
            raise ValueError(
                f"depths are four numbers from 1, the blocks of each stage; got {self.depths!r}."
            )
        object.__setattr__(self, "depths", depths)
        for name in ("width", "heads", "kv_stride", "frames", "size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is a whole number from 1; got {value!r}.")
        for name in ("relative", "class_token", "token_query", "normed_skip"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is true or false; got {getattr(self, name)!r}.")
        if self.token_query and not self.class_token:
            raise ValueError("token_query is of the class token; it needs class_token=True, too.")
        if self.norms not in NORMS:
            raise ValueError(f"norms is one of {NORMS}; got {self.norms!r}.")
        if self.width % self.heads:
            raise ValueError(f"width is a multiple of heads; got {self.width} and {self.heads}.")
        if not 0 <= self.stochastic_depth < 1 or not 0 < self.pool_eps < 1:
            raise ValueError(
                "stochastic_depth is from 0, pool_eps over 0, and both are under 1; got "
                f"{self.stochastic_depth!r} and {self.pool_eps!r}."
            )

    @property
    def grid(self) -> Grid:
        """The tokens' grid of a clip of this form's size."""
        return strided((self.frames, self.size, self.size), PATCH_STRIDE)


OFFICIAL: dict[str, Any] = {
    "relative": True,
    "class_token": True,
    "normed_skip": True,
    "pool_eps": 1e-6,
}
PRESETS = {
    # MultiTrain, table 2: 32 frames at a rate of 3. Stochastic depth as in the released config for
    # joint training; that for Kinetics alone, from scratch, which comes before, has 0.3
    "seed_b": Form(stochastic_depth=0.1),
    "seed_s": Form(
        depths=(1, 2, 11, 2), frames=16, stochastic_depth=0.2
    ),  # its Kinetics config, 16 frames, rate 4
    "official_s": Form(
        depths=(1, 2, 11, 2), frames=16, stochastic_depth=0.2, **OFFICIAL
    ),  # torchvision's mvit_v2_s
    "tiny": Form(
        depths=(1, 1, 1, 1), width=24, frames=8, size=64
    ),  # ours, for the toy world and for tests
}


def inflated(kernel: Tensor, length: int, inflation: str) -> Tensor:
    """Spread the middle slice of a kernel over time: [D,C,length,h,w].

    Args:
        kernel: [D,C,k,h,w].
        length: Slices, an odd number.
        inflation: "center" puts it between slices of zeros (Girdhar et al. 2018, Detect-and-Track):
            a still clip gives what the frame gives, at each position. "mean" puts it everywhere,
            divided by `length` (I3D, and the code of SlowFast and MultiTrain): the same except at
            the ends of a clip, where it sees padding; frames are averaged.
    """
    middle = kernel[:, :, kernel.shape[2] // 2, None]
    if inflation == "mean":
        return middle.repeat(1, 1, length, 1, 1) / length
    return F.pad(middle, (0, 0, 0, 0, length // 2, length // 2))


class MViT(Backbone):
    """The backbone of a form: clips [B,3,T,H,W] -> [B,D,T',H',W'], or [B,D,1,1,1] with a class
    token; see `mvit_v2`."""

    refits = ("frames", "size", "stochastic_depth", "norms", "checkpointing")

    def __init__(self, form: Form, checkpointing: bool = False):
        super().__init__()
        self.form, self.checkpointing = form, checkpointing
        # what no weight's shape shows
        self.normed_skip, self.kv_stride = form.normed_skip, form.kv_stride
        self.token_query = form.token_query
        grid, width = form.grid, form.width
        t, h, w = (k // 2 for k in PATCH)
        self.patches = nn.Conv3d(3, width, PATCH, PATCH_STRIDE, (t, h, w))
        self.class_token = nn.Parameter(torch.empty(width)) if form.class_token else None
        self.space = self.time = self.class_position = None
        if not form.relative:
            self.space = nn.Parameter(torch.empty(width, *grid[1:]))
            self.time = nn.Parameter(torch.empty(width, grid[0]))
            self.class_position = nn.Parameter(torch.empty(width)) if form.class_token else None
        self.blocks, self.out_channels = nn.ModuleList(), width
        for stage, depth in enumerate(form.depths):
            for index in range(depth):
                grid = self._add_block(stage, index, grid)
        self.norm = norm_layer(self.out_channels)
        if form.norms == "autocast":
            AutocastNorm.adopt(self)
        self.start()

    def _add_block(self, stage: int, index: int, grid: Grid) -> Grid:
        """Add a block on tokens of `grid`; returns the grid of its queries."""
        form, inputs, channels = self.form, self.out_channels, self.form.width << stage
        strides = (1 if index or not stage else 2, max(form.kv_stride >> stage, 1))
        kept = [strided(grid, (1, stride, stride)) for stride in strides]  # queries; keys, values
        sizes = tuple(2 * max(pair) - 1 for pair in zip(*kept, strict=True))
        tables = sizes if form.relative else None
        heads = form.heads << stage
        attention = Attention(
            inputs, channels, heads, strides, form.pool_eps, tables, form.token_query
        )
        # from 0, linear
        rate = form.stochastic_depth * len(self.blocks) / (sum(form.depths) - 1)
        self.blocks.append(Block(inputs, channels, attention, form.normed_skip, rate))
        self.out_channels = channels
        return kept[0]

    def start(self) -> None:
        """Draw first weights as all sources do: a truncated normal distribution of deviation 0.02.

        Convolutions keep PyTorch's own.
        """
        for name, weight in self.named_parameters():
            if (
                name.endswith(("class_token", "space", "time", "class_position"))
                or ".relative." in name
            ):
                nn.init.trunc_normal_(weight, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, clips: Tensor) -> Tensor:
        """Encode clips: [B,3,T,H,W] -> [B,D,T',H',W'], or [B,D,1,1,1] with a class token.

        The result is normalized at each position.
        """
        x = self.patches(clips)
        grid = tuple(x.shape[2:])
        if self.space is not None and self.time is not None:
            space = stretched(self.space, grid[1:])[:, None]
            time = stretched(self.time, grid[:1])[:, :, None, None]
            if self.form.norms == "autocast":
                x = x + (space + time).to(x.dtype)
            else:
                x = x + space + time
        x = x.flatten(2).transpose(1, 2)
        if self.class_token is not None:
            first = (
                self.class_token
                if self.class_position is None
                else self.class_token + self.class_position
            )
            x = torch.cat([first.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        for block in self.blocks:
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, grid, use_reentrant=False)
            else:
                x = block(x, grid)
            attention: Any = block.attention
            grid = strided(grid, attention.strides[0])
        if self.class_token is not None:
            x, grid = x[:, :1], (1, 1, 1)
        return self.norm(x).transpose(1, 2).unflatten(2, grid)

    def resized_state(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
        """Resize the position embeddings of a state of this net at another clip size or length.

        Space is interpolated bilinearly, time and tables of relative positions linearly. Other
        tensors keep their shapes and values.

        Returns:
            The state, and a sentence on what changed; empty if nothing did.
        """
        wanted, state, said, tables = self.state_dict(), dict(state), [], 0
        for name in ("space", "time", *(name for name in wanted if ".relative." in name)):
            old, new = state.get(name), wanted.get(name)
            if old is None or new is None or old.shape == new.shape or old.dim() != new.dim():
                continue
            table = name not in ("space", "time")  # [L,d], the others have D first
            old, new = (old.T, new.T) if table else (old, new)
            if old.shape[0] != new.shape[0]:
                continue  # of another width, for load_state_dict to refuse
            changed = stretched(old, new.shape[1:])
            state[name] = changed.T.contiguous() if table else changed
            tables += table
            if not table:
                said.append(f"{name} from {_by(old)} to {_by(new)}")
        said += [f"{tables} tables of relative positions"] if tables else []
        clips = f"{self.form.frames} frames of {self.form.size} pixels"
        return (
            state,
            f"Position embeddings were interpolated for {clips}: {', '.join(said)}."
            if said
            else "",
        )

    def refit(
        self, arguments: Mapping, state: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], str]:
        """Inflate a net for one frame (trained on images), else interpolate position embeddings.

        Args:
            arguments: Of the net that the state is from.
            state: Its tensors, in its own shapes.
        """
        with torch.device("meta"):
            theirs = mvit_v2(**arguments)
        images = theirs.form.frames == 1 and self.form.frames > 1
        return self.inflated_state(state) if images else self.resized_state(state)

    def inflated_state(
        self, state: Mapping[str, Tensor], inflation: str = "center"
    ) -> tuple[dict[str, Tensor], str]:
        """Start this net for clips from the state of an image net, or of this net for one frame.

        With "center" a still clip gives the frame's features at each position in time. With a class
        token this holds for one position only (up to two frames): against more of them the token
        weighs less in attention. What one frame learned of time is copied to each position in time;
        where an image net has none, it starts at zero (assumption: MultiTrain's code leaves it at
        its random first values). Then `resized_state` resizes the rest.

        Args:
            state: Tensors of a net with one position in time. A net for two frames has the shapes
                of one for a single frame, so such a state is not refused: it loses what its outer
                slices learned.
            inflation: One of INFLATIONS, see `inflated`. It is not known which of the two
                MultiTrain's own start from images used.

        Returns:
            The state, and a sentence on what changed.

        Raises:
            ValueError: an unknown inflation, or a state of more than one position in time.
        """
        if inflation not in INFLATIONS:
            raise ValueError(f"how to inflate is one of {INFLATIONS}; got {inflation!r}.")
        lengths = {name: new.shape[2] for name, new in self.state_dict().items() if new.dim() == 5}
        changes = {
            name: inflated(state[name], length, inflation)
            for name, length in lengths.items()
            if name in state and state[name].dim() == 5
        }
        kernels = f"{len(changes)} kernels " + (
            "are spread evenly over their slices"
            if inflation == "mean"
            else "stand in the middle slice, zeros around"
        )
        state, time = self._in_time({**state, **changes})
        state, resized = self.resized_state(state)
        return (
            state,
            f"Inflated from one frame to {self.form.frames}: "
            f"{kernels}{time}.{resized and ' '}{resized}",
        )

    def _in_time(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
        """The state of an image net or a net for one frame with embeddings of time of this net's
        length; what was done.

        Left as it is where it has no embeddings of this net's kind, or of another width, for
        loading to refuse."""
        wanted, relative = self.state_dict(), self.form.relative
        times = [name for name in wanted if name.endswith(".relative.t")] if relative else ["time"]
        axis, other = (0, f"{times[0][:-1]}h") if relative else (1, "space")
        what = (
            f", {len(times)} tables of time start" if relative else ", the embedding of time starts"
        )
        if known := [name for name in times if name in state and state[name].dim() == 2]:
            if long := [name for name in known if state[name].shape[axis] != 1]:
                raise ValueError(
                    f"inflated_state needs an image net or a net for one frame; {long[0]} has "
                    f"{state[long[0]].shape[axis]} entries, not 1. The state of a net for longer "
                    "clips goes through resized_state."
                )
            changes = {
                name: state[name].repeat_interleave(wanted[name].shape[axis], axis)
                for name in known
            }
            return {**state, **changes}, f"{what} the same at each position"
        if other in state:
            return {
                **state,
                **{name: torch.zeros_like(wanted[name]) for name in times},
            }, f"{what} at zero"
        return state, ""


def _by(embedding: Tensor) -> str:
    """56x56, the positions of an embedding [D,56,56]."""
    return "x".join(map(str, embedding.shape[1:]))


def mvit_v2(
    preset: str = "seed_b",
    depths: Sequence[int] | None = None,
    width: int | None = None,
    heads: int | None = None,
    kv_stride: int | None = None,
    frames: int | None = None,
    size: int | None = None,
    relative: bool | None = None,
    class_token: bool | None = None,
    token_query: bool | None = None,
    normed_skip: bool | None = None,
    pool_eps: float | None = None,
    stochastic_depth: float | None = None,
    norms: str | None = None,
    checkpointing: bool = False,
) -> MViT:
    """Build MViTv2 in the form of a preset, changed by what else is given; D = 8 width.

    Args:
        preset: One of PRESETS.
        depths: Blocks of the four stages.
        width, heads: Channels and attention heads of the first stage. Both double from stage to
            stage, where the first block halves height and width of the grid.
        kv_stride: Of keys and values in space in the first stage, halved from stage to stage down
            to 1.
        frames, size: Of the clips, in frames and pixels, for which position embeddings are learned;
            clips of another size see interpolated ones.
        relative, class_token, token_query, normed_skip, pool_eps: See the module.
        stochastic_depth: The probability that a clip skips a branch of the last block; it rises
            linearly from 0 at the first block.
        norms: The precision of layer norms and of the tokens between blocks under autocast:
            "float32", or "autocast" for that of autocast; weights are float32 in both.
        checkpointing: Keep the blocks' inputs alone and compute the rest again on the way back: the
            same gradients, less memory, more time.

    Raises:
        ValueError: an unknown preset, or a value out of range.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset is one of {sorted(PRESETS)}; got {preset!r}.")
    given = locals()
    changes = {
        field.name: given[field.name] for field in fields(Form) if given[field.name] is not None
    }
    return MViT(replace(PRESETS[preset], **changes), checkpointing)
