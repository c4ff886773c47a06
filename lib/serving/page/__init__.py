"""The page for people: drop a meme, correct the text that was read, look at what decides.

`mount` puts it on a FastAPI application; it needs the extra `page`. Nothing is sent elsewhere.
"""

import os

# Before Gradio is imported: it asks once whether it may report how it is used.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from lib.serving.page.mounting import PATH, mount

__all__ = ["PATH", "mount"]
