"""The kernels in which notebooks run in batch."""

from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop


class BatchKernels(AsyncKernelManager):
    """Ends a kernel that has run its last cell without interrupting it first.

    jupyter_client interrupts before it asks a kernel to end. One that is still tidying up behind
    the last cell then reports a KeyboardInterrupt, as if the run had been cut short.
    """

    async def _async_interrupt_kernel(self) -> None:
        if not self.shutting_down:
            await super()._async_interrupt_kernel()


def forget_tasks() -> None:
    """Let asyncio say nothing of the tasks that an interrupted notebook leaves.

    nbclient leaves the one that awaits the cell. Where it sees the kernel ended, it fails with a
    DeadKernelError, of which asyncio would print the traceback when it goes.
    """
    ensure_event_loop().set_exception_handler(lambda loop, context: None)
