"""Step 8: a meme flows in, a calibrated probability and a decision flow out.

`classifier` holds `MemeClassifier`, which needs nothing of the training stack; `demo` and `shards`
apply it to packed memes.
"""

from lib.serving.classifier import MemeClassifier

__all__ = ["MemeClassifier"]
