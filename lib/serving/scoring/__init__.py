"""Batch scoring: memes in files flow in, a row of numbers and words for each flows out.

`inputs` tells folders, tables and shards apart and cuts them into tasks; `tasks` judges one,
wherever it runs; `pools` runs them in worker processes or on Ray; `output` keeps what is finished
and makes one file of it. `lib.serving.score` is the program.
"""
