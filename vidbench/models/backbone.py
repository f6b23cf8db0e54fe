"""What every network here is: a backbone without a head."""

from collections.abc import Mapping

from torch import Tensor, nn


class Backbone(nn.Module):
    """A network that turns clips [B,3,T,H,W] into a feature map [B,D,T',H',W'], with `out_channels`
    = D."""

    out_channels: int
    # arguments of its builder between which `refit` converts, or which change no weight
    refits: tuple[str, ...] = ()
    # whether clips may come in autocast's 16 bits; not where something precedes the first product
    half_input: bool = True

    def refit(
        self, arguments: Mapping, state: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], str]:
        """Convert the state of a network of the same builder to this one, and say what changed.

        Args:
            arguments: Those of the network that the state is from; they may differ in `refits`.
            state: Its tensors, which keep their shapes here.
        """
        return dict(state), ""
