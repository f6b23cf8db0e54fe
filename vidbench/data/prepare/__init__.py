"""Jobs over every video of a data set: scan and store."""
