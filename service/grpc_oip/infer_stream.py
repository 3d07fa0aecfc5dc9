"""`ModelStreamInfer`: the requests of a stream, one after the other, with the previews that they ask for."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc

from service.engine.jobs import Progress
from service.engine.runtime import Array
from service.errors import Problem, RequestTimeout, Unavailable
from service.grpc_oip import grpc_status, grpc_tensors
from service.grpc_oip.infer import begin, images
from service.grpc_oip.messages import SERVICE, InferRequest, StreamInferResponse
from service.grpc_oip.rpc import Arrival, Context, Rpcs, origin, parsed, request_id
from service.requests import inference, watched
from service.requests.generation import Generation
from service.requests.keys import Holder
from service.requests.state import ServiceState

LAST: dict[str, inference.Value] = {grpc_tensors.FINAL: True}
PATH = f"/{SERVICE.full_name}/ModelStreamInfer"


class InferStreams:
    """A request that is refused or fails gets an `error_message`, as Triton has it, and the stream goes on.

    A stream ends when its client ends it, sends nothing for `idle_s`, or the server ends.
    """

    def __init__(self, state: ServiceState, rpcs: Rpcs, idle_s: float) -> None:
        self.state = state
        self.rpcs = rpcs
        self.idle_s = idle_s
        self.draining = asyncio.Event()

    async def handle(self, _: Any, context: Context) -> None:
        arrival = Arrival(request_id(context))
        try:
            with self.rpcs.entered(context) as holder:
                async with aclosing(self.messages(context)) as messages:
                    async for content in messages:
                        await self._answer(content, holder, context)
        except Problem as problem:
            self.rpcs.metrics.refused(problem)
            self.rpcs.note(arrival, PATH, problem.status)
            await grpc_status.abort(context, problem)

    async def messages(self, context: Context) -> AsyncGenerator[bytes, None]:
        """What the client sends. Raises Unavailable when the server ends, or RequestTimeout."""
        drained = asyncio.create_task(self.draining.wait())
        reading: asyncio.Task[Any] | None = None
        try:
            while True:
                reading = asyncio.create_task(context.read())
                await asyncio.wait({reading, drained}, timeout=self.idle_s, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    raise Unavailable("the server ends") if drained.done() else RequestTimeout(self.idle_s)
                content = reading.result()
                if content is grpc.aio.EOF:
                    return
                yield content
        finally:
            drained.cancel()
            if reading is not None:
                reading.cancel()

    async def _answer(self, content: bytes, holder: Holder, context: Context) -> None:
        id = ""
        try:
            with self.rpcs.observed(PATH, context) as arrival:
                await self.rpcs.turn()
                request = parsed(InferRequest, content)
                id = request.id[: inference.MAX_ID]
                remaining_s, asker = context.time_remaining(), origin(arrival, holder)
                generation = begin(self.state, asker, request, remaining_s, grpc_tensors.STREAM_PARAMETERS)
                if generation.request.preview_every is None:
                    files = (await inference.result(generation)).files
                else:
                    files = await self._watched(generation, id, context)
                await send(context, StreamInferResponse(infer_response=images(generation, id, files, LAST)))
        except Problem as problem:
            await send(context, refused(problem, id))

    async def _watched(self, generation: Generation, id: str, context: Context) -> list[bytes]:
        """Sends the previews. Returns the files."""
        with inference.input_names():
            ended, steps = watched.start(generation)
        try:
            while (step := await steps.get()) is not None:
                if step.preview is not None:
                    message = preview(generation, id, step, step.preview)
                    await send(context, StreamInferResponse(infer_response=message))
            return await generation.files(await ended)
        finally:
            ended.cancel()


async def send(context: Context, message: Any) -> None:
    """Waits until the client has room for it."""
    try:
        await context.write(message.SerializeToString())
    except grpc.aio.BaseError as error:
        raise asyncio.CancelledError from error  # the client went away


def preview(generation: Generation, id: str, step: Progress, image: Array) -> Any:
    """The image so far."""
    place = {"image": step.image, "step": step.index, "steps": step.of, grpc_tensors.FINAL: False}
    id = id or generation.origin.id
    return grpc_tensors.answer(generation.model.name, id, place, grpc_tensors.PREVIEW, image[None])


def refused(problem: Problem, id: str) -> Any:
    """The answer to a request of a stream, with the status that it had as a call of its own."""
    response = StreamInferResponse(error_message=grpc_status.text(problem))
    response.infer_response.id = id
    parameters = response.infer_response.parameters
    parameters["status"].string_param = grpc_status.code(problem).name
    if (delay_s := grpc_status.retry_after_s(problem)) is not None:
        parameters["retry_after_s"].uint64_param = delay_s
    return response
