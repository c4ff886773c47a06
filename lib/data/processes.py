"""Worker processes that end with whoever started them."""

import os
import threading
import time


def end_with_parent(parent: int) -> None:
    """End this worker when its parent is gone: killed, that cannot send the word to stop."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
