"""Step 3: public data sets and folders of your own flow in, WebDataset shards flow out.

Readers turn each data set's rows into examples with unified labels, or `confounders` generates
some; `packing` checks them, `splits` divides them without leaks, and shards, splits and statistics
are written. `datasets` reads the shards back as samples for all later steps. `text`, `folding` and
`pictures` are the one preparation of a meme, in training and in serving.
"""
