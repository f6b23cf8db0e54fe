"""Speed: vidbench and its peers in one run, as ratios, with a check that both
compute the same."""
