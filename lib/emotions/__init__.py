"""The emotion classifier: texts flow in, calibrated probabilities of 28 emotions flow out.

It serves the scripts in `scripts/`. `data` reads GoEmotions' files, `generated` writes
sentences where there are none, `splits` divides them; `classifier` is the model, `f1` its score.
"""

from lib.emotions.classifier import BERTEmotionClassifier

__all__ = ["BERTEmotionClassifier"]
