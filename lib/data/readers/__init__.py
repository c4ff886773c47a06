"""One file a data set: where its files lie, and what its labels mean in the unified schema."""
