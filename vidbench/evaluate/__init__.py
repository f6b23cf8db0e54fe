"""From a trained run to numbers: features, search, probes, result tables."""
