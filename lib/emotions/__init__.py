"""The emotion classifier: texts flow in, calibrated probabilities of 28 emotions flow out.

It serves the scripts in `scripts/`. `data` reads GoEmotions' files, `generated` writes
sentences where there are none, `splits` divides them, `augment` words them anew; `encoding` makes
tokens of texts, `classifier` is the model, `passes` takes many texts through it, `f1` is its score;
`text_files` and `answer_files` are what a user hands in and takes away.
"""

from lib.emotions.classifier import BERTEmotionClassifier

__all__ = ["BERTEmotionClassifier"]
