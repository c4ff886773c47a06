import torch
from torch.utils.data import DistributedSampler

from lib.modeling.filled_batches import BLANK, NO_LABEL, FilledUp, WithBlank


def test_every_row_comes_once_and_blanks_fill_the_last_batch():
    order = DistributedSampler(range(10), num_replicas=1, rank=0, seed=3)
    filled = FilledUp(order, 4)
    rows = list(filled)
    assert len(filled) == len(rows) == 12
    assert sorted(rows) == [BLANK, BLANK, *range(10)]
    assert rows[-2:] == [BLANK, BLANK]
    assert list(FilledUp(order, 5)) == list(order)


def test_each_epoch_has_an_order_of_its_own():
    filled = FilledUp(DistributedSampler(range(10), num_replicas=1, rank=0), 4)
    first = list(filled)
    filled.set_epoch(1)
    assert list(filled) != first
    filled.set_epoch(0)
    assert list(filled) == first


def test_a_blank_has_no_say_in_the_loss():
    memes = WithBlank([{"x": torch.tensor([2.0, 0.0]), "labels": 1}])
    assert memes[0]["labels"] == 1
    blank = memes[BLANK]
    loss = torch.nn.functional.cross_entropy(
        torch.stack([memes[0]["x"], blank["x"]]),
        torch.tensor([1, blank["labels"]]),
        reduction="sum",
    )
    alone = torch.nn.functional.cross_entropy(memes[0]["x"][None], torch.tensor([1]))
    assert blank["labels"] == NO_LABEL
    assert loss == alone
