"""The service's settings: command line, then environment (`TRILEMMA_PORT=8000`), then these defaults.

What is empty counts as absent: an empty host would be every interface, an empty folder the one that it is started in.

`python -m docs.configuration` writes docs/configuration.md from them.
"""

import resource
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, DirectoryPath, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service import resources
from service.engine.jobs import MAX_IMAGES

SHIPPED_BUNDLES = Path(__file__).parent.parent / "bundles"
MAX_CONNECTIONS = 2048  # so many requests at once take half a second to read, and health answers after that
MIN_CONNECTIONS = 8  # by default: with fewer a probe waits for callers
GRPC_CONNECTIONS = 64  # each has many calls
OWN_DESCRIPTORS = 128 + GRPC_CONNECTIONS  # for models, threads and the log, and for gRPC
MAX_S = 1e7  # four months: a thread cannot wait for ever by a number
MAX_THREADS = 1024  # of each kind
MAX_BYTES = 2**60
MAX_COUNT = 2**31
PREFIX = "TRILEMMA_"


def default_connections() -> int:
    """As many as the process has descriptors for, and half as many again, which are told that there are too many."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, (descriptors - OWN_DESCRIPTORS) * 2 // 3))


def setting(default: Any, description: str, change: str, **limits: Any) -> Any:
    """A field with its description, for --help, and when to change it, for the docs."""
    return Field(default, description=description, json_schema_extra={"change": change}, **limits)


def split(names: Any) -> Any:
    """The names in a text with commas between them; what is a list already stays."""
    return [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else names


class Settings(BaseSettings):
    """Serve diffusion models over HTTP, and gRPC."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, cli_kebab_case=True, cli_prog_name="./run serve"
    )

    host: str = setting(
        "127.0.0.1",
        "address to listen on; 0.0.0.0 for every interface",
        "in a container, or behind a proxy on another machine",
        pattern="^[!-~]+$",
    )
    port: int = setting(8000, "port to listen on; 0 takes a free one", "if the port is in use", ge=0, le=65535)
    grpc_port: int | None = setting(
        None,
        "port for the Open Inference Protocol over gRPC; 0 takes a free one; without it there is no gRPC",
        "for clients of gRPC, such as tritonclient.grpc",
        ge=0,
        le=65535,
    )
    bundles: DirectoryPath = setting(SHIPPED_BUNDLES, "folder of bundles, one folder each", "to serve your own models")
    methods: Annotated[list[str], NoDecode, BeforeValidator(split)] = setting(
        [],
        "methods to serve, with commas between them, e.g. ddim,vdm; default: all",
        "to start sooner and take less memory, if you need some of the models",
    )
    device: Literal["cpu", "cuda", "auto"] = setting(
        "cpu",
        "cuda: an NVIDIA GPU, or an error at start; auto: a GPU if there is one",
        "on a machine with a GPU, for bundles with engines",
    )
    watch_s: NonNegativeFloat = setting(
        5,
        "time between two checks for changed bundles; 0: no checks",
        "0 if only /admin/reload should load bundles",
        le=MAX_S,
    )
    load_s: PositiveFloat = setting(
        120,
        "time to try a new bundle in; one that takes longer is refused",
        "raise it for a large model on a slow machine",
        le=MAX_S,
    )
    load_bytes: PositiveInt = setting(
        4 * 2**30,
        "memory that a graph of a new bundle may take when it is tried; one that takes more is refused",
        "raise it for a large model; lower it where memory is short",
        ge=2**24,
        le=MAX_BYTES,
    )
    workers: PositiveInt = setting(
        resources.read().workers,
        "network steps that run at a time; default: one a usable processor; on a GPU always one",
        "fewer, to leave cores to other programs",
        le=MAX_THREADS,
    )
    threads: PositiveInt = setting(
        1,
        "threads of each network step",
        "if models are large and callers few; measure it with `./run bench`",
        le=MAX_THREADS,
    )
    max_batch: PositiveInt = setting(
        16,
        "largest number of images in a network step",
        "raise it if the metric batch size is at its limit and a larger batch costs little more (`./run bench`)",
        le=1024,
    )
    max_queued_images: int = setting(
        4096,
        "largest number of images due before a request; beyond it 429",
        "lower it to refuse early; raise it for bursts, if memory allows",
        ge=MAX_IMAGES,
        le=MAX_COUNT,
    )
    max_backlog_s: PositiveFloat = setting(
        20,
        "predicted work due before a request, and its own, at most; beyond it 429",
        "lower it to refuse early; raise it if callers prefer to wait",
        le=MAX_S,
    )
    max_request_s: PositiveFloat = setting(
        600,
        "predicted work of one request at most, on one worker; a larger request gets 422",
        "lower it so that no caller can ask for much at once",
        le=MAX_S,
    )
    cache_bytes: NonNegativeInt = setting(
        64 * 2**20,
        "memory for finished files, by ETag; 0: no cache",
        "raise it if callers repeat requests",
        le=MAX_BYTES,
    )
    shutdown_s: PositiveInt = setting(
        120,
        "time to finish accepted requests after SIGTERM",
        "match it with the grace period of your orchestrator",
        le=MAX_S,
    )
    max_body_bytes: PositiveInt = setting(
        65536,
        "longest body of a request in JSON; a longer one gets 413",
        "rarely: pictures and arrays have a limit of their own",
        le=MAX_BYTES,
    )
    max_upload_bytes: PositiveInt = setting(
        4 * 2**20,
        "longest body of a request with pictures or arrays; 16 that are longer than --max-body-bytes can be under way",
        "raise it for larger pictures; lower it where memory is short",
        le=MAX_BYTES,
    )
    max_header_bytes: PositiveInt = setting(
        16384,
        "longest head of a request, its line and headers; a longer one gets 431",
        "raise it if a proxy adds long cookies or tokens",
        ge=512,
        le=MAX_COUNT,
    )
    max_connections: PositiveInt = setting(
        default_connections(),
        "largest number of connections at a time, and of calls over gRPC; default: from the limit of descriptors. At "
        "the limit the longest idle one is closed, or a new one gets 503; probes are answered",
        "raise it with the limit of descriptors, for more callers at a time",
        le=MAX_COUNT,
    )
    client_timeout_s: PositiveFloat = setting(
        30,
        "time for a client to send a head, to send a body, or to read more of an answer; then 408, or no connection",
        "raise it for clients on slow links",
        le=MAX_S,
    )
    keys: Path | None = setting(
        None, "file of API keys (docs/deployment.md); without it anybody may call", "if more than one party calls"
    )
    cors_origins: list[str] = setting(
        [],
        'web origins whose pages may call, as JSON: \'["https://example.org"]\'; "*" for all',
        "for a web page on another host",
    )
    trusted_hosts: list[str] = setting(
        [],
        'public names of this server, as JSON: \'["images.example.org"]\'; "*" for any. Without keys a page may call '
        "it by an address, a name without a dot, a private domain's name, or one of these",
        "if people open the page by a public name over plain HTTP, without keys",
    )
    trace: bool = setting(
        False, "send OpenTelemetry spans to OTEL_EXPORTER_OTLP_ENDPOINT", "if you have a collector for traces"
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "least severe level to log", "warning, for a quiet log"
    )
    log_format: Literal["console", "json"] = setting(
        "console", "how a log line is written", "json, if machines read the log"
    )
