import asyncio

import pytest
from jupyter_client.manager import AsyncKernelManager

from lib.kernels import BatchKernels


@pytest.mark.parametrize(("ending", "interrupts"), [(True, 0), (False, 1)])
def test_a_kernel_is_interrupted_only_while_it_is_wanted(ending, interrupts, monkeypatch):
    sent = []

    async def interrupt(self):
        sent.append(self)

    monkeypatch.setattr(AsyncKernelManager, "_async_interrupt_kernel", interrupt)
    kernels = BatchKernels()
    kernels.shutting_down = ending
    asyncio.run(kernels._async_interrupt_kernel())
    assert len(sent) == interrupts


def test_a_kernel_ends_when_it_is_asked_to(capfd):
    async def live():
        kernels = BatchKernels(kernel_name="python3")
        await kernels.start_kernel()
        client = kernels.client()
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        await client.execute_interactive("%matplotlib inline")
        client.stop_channels()
        await kernels.shutdown_kernel()
        return await kernels.is_alive()

    assert not asyncio.run(live())
    assert "KeyboardInterrupt" not in capfd.readouterr().err
