"""Speed side by side: vidbench beside its peers in one run, as ratios, with a check that both
compute the same."""
