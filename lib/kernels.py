"""The kernels in which notebooks run in batch."""

from jupyter_client.manager import AsyncKernelManager


class BatchKernels(AsyncKernelManager):
    """Ends a kernel that has run its last cell without interrupting it first.

    jupyter_client interrupts before it asks a kernel to end. One that is still tidying up behind
    the last cell then reports a KeyboardInterrupt, as if the run had been cut short.
    """

    async def _async_interrupt_kernel(self) -> None:
        if not self.shutting_down:
            await super()._async_interrupt_kernel()
