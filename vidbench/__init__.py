"""vidbench: a workbench for video representation learning.

The legend, used in every docstring of the package:

    B  clips in a batch          C  channels         D  feature width
    V  views of one clip         T  frames           K  queue slots
    N  videos (or rows)          H, W  pixels        L  classes

A path through the rooms: manifest row -> frame indices -> frames uint8 [T,H,W,C] -> views float
[V,C,T,H,W] -> encoder [B,D] -> bank -> loss -> run folder -> features [N,D] -> index -> neighbors
-> figure.

Words with one meaning: a *stream* is "rgb" or "flow"; a *source video* is the long video that
sibling clips were cut from; a *view* is one augmented look at one clip; a *run* is a folder on disk; a
*recipe* is the frozen set of plain values that made it; a *stage* is one training job; *purity* is
the share of mined positives whose label is the query's."""
