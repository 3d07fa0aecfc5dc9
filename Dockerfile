# docker build .                  the service for the CPU
# docker build --target gpu .     the same for an NVIDIA GPU
# docker build --target load .    locust with this project's users
ARG PYTHON=docker.io/library/python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d
ARG CUDA=docker.io/nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04@sha256:14d94b039cb94bbd5da559f303b46bc4b0d5d6c24ab1a9d7b186e566ed3400dc

FROM ${PYTHON} AS packages
COPY locks/serve.txt /locks/
# --without-pip: nothing in the running image can install more.
RUN python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install --no-cache-dir --require-hashes --requirement /locks/serve.txt

FROM packages AS sbom
COPY locks/sbom.txt /locks/
RUN python -m venv /cyclonedx \
    && /cyclonedx/bin/pip install --no-cache-dir --require-hashes --requirement /locks/sbom.txt \
    && /cyclonedx/bin/cyclonedx-py environment --output-reproducible --output-file /sbom.cdx.json /venv/bin/python

FROM ${PYTHON} AS load
COPY locks/load.txt /locks/
RUN python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install --no-cache-dir --require-hashes --requirement /locks/load.txt
COPY loadtests /app/loadtests
WORKDIR /app
USER 10001:10001
EXPOSE 8089
ENV PYTHONPATH=/app
ENTRYPOINT ["/venv/bin/locust", "--locustfile", "loadtests/locustfile.py"]

FROM ${CUDA} AS gpu
# hadolint ignore=DL3008 # the base's tag fixes the distribution; its updates are wanted
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY locks/gpu.txt /locks/
RUN python3 -m venv --without-pip /venv \
    && pip --python /venv/bin/python install --no-cache-dir --require-hashes --requirement /locks/gpu.txt
COPY bundle /app/bundle
COPY models /app/models
COPY export /app/export
COPY service /app/service
COPY bundles /app/bundles
WORKDIR /app
# cuda: where there is no GPU, or a bundle has no engines, that is an error and not a slow answer.
ENV PATH=/venv/bin:$PATH TRILEMMA_DEVICE=cuda TRILEMMA_HOST=0.0.0.0 TRILEMMA_LOG_FORMAT=json
USER 10001:10001
# 9000 is gRPC, with TRILEMMA_GRPC_PORT=9000
EXPOSE 8000 9000
HEALTHCHECK --interval=5s --timeout=3s --start-period=120s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
ENTRYPOINT ["python", "-m", "service"]

FROM ${PYTHON} AS cpu
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Trilemma" \
      org.opencontainers.image.description="Step-level continuous batching for diffusion models" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=packages /venv /venv
COPY --from=sbom /sbom.cdx.json /
COPY bundle /app/bundle
COPY models /app/models
COPY service /app/service
COPY bundles /app/bundles
WORKDIR /app
ENV PATH=/venv/bin:$PATH TRILEMMA_HOST=0.0.0.0 TRILEMMA_LOG_FORMAT=json
USER 10001:10001
# 9000 is gRPC, with TRILEMMA_GRPC_PORT=9000
EXPOSE 8000 9000
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
# The process itself is PID 1 and takes SIGTERM: it finishes what it accepted, then exits 0.
ENTRYPOINT ["python", "-m", "service"]
