"""A job whose steps its caller watches, whatever the protocol that sends them on."""

import asyncio

from service.engine.jobs import Job
from service.requests.generation import Generation
from service.requests.pending_steps import PendingSteps


def start(generation: Generation) -> tuple[asyncio.Task[Job], PendingSteps]:
    """Starts the job. Raises what refuses it; what fails later is the task's. The steps end when the task does."""
    job, steps = generation.job(), PendingSteps()
    loop = asyncio.get_running_loop()
    job.watch = lambda progress: loop.call_soon_threadsafe(steps.put, progress)
    accepted = generation.submit(job, generation.state.engine.submit)
    ended = asyncio.create_task(generation.wait(accepted))
    ended.add_done_callback(lambda _: steps.end())  # after the last step: the loop keeps the order
    return ended, steps
