"""Plain FastAPI: a pipeline under a lock in each process of uvicorn."""

import sys
import threading

import uvicorn
from fastapi import FastAPI, Response

from loadtests.peers.pipeline import PNG, Pipeline, Tuning
from service.requests.request import GenerateRequest

app = FastAPI()
lock = threading.Lock()
pipeline = Pipeline(Tuning.from_environment().threads)


@app.post("/generate")
def generate(body: GenerateRequest) -> Response:
    with lock:
        (png,) = pipeline([body])
    return Response(png, media_type=PNG)


if __name__ == "__main__":
    workers = Tuning.from_environment().workers
    uvicorn.run("loadtests.peers.plain:app", port=int(sys.argv[1]), workers=workers, log_level="warning")
