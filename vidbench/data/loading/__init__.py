"""From a manifest to batches of augmented clips."""
