"""From examples to shards: which are good (checking), who goes where (writing), what came of it."""
