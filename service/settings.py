"""The service's settings: command line, then environment (`TRILEMMA_PORT=8000`), then these defaults."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.requests.request import MAX_IMAGES

SHIPPED_BUNDLES = Path(__file__).parent.parent / "bundles"


class Settings(BaseSettings):
    """Serve diffusion models over HTTP."""

    model_config = SettingsConfigDict(env_prefix="TRILEMMA_", cli_kebab_case=True, cli_prog_name="./run serve")

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every interface")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    bundles: Path = Field(SHIPPED_BUNDLES, description="folder of bundles, a folder each")
    device: Literal["cpu", "cuda", "auto"] = Field(
        "cpu", description="cuda: an NVIDIA GPU, or an error; auto: one if it is there (docs/gpu.md)"
    )
    watch_s: NonNegativeFloat = Field(5, description="seconds between looks for changed bundles; 0: none")
    workers: PositiveInt = Field(os.cpu_count() or 1, description="network steps at a time; on a GPU always one")
    threads: PositiveInt = Field(1, description="threads of each network step")
    max_batch: PositiveInt = Field(16, description="images in one network step at most")
    max_queued_images: int = Field(
        4096, ge=MAX_IMAGES, description="images accepted and not finished at most; a request beyond them gets 429"
    )
    max_backlog_s: PositiveFloat = Field(
        20, description="seconds of predicted work accepted and not finished at most; what is beyond gets 429"
    )
    cache_bytes: NonNegativeInt = Field(64 * 2**20, description="finished images kept in memory; 0: none")
    shutdown_s: PositiveInt = Field(120, description="seconds to finish accepted requests in when told to end")
    max_body_bytes: PositiveInt = Field(65536, description="longest body of a request; a longer one gets 413")
    keys: Path | None = Field(None, description="file of API keys (docs/operations.md); without it anybody may call")
    cors_origins: list[str] = Field([], description="origins whose pages may call, e.g. https://example.org; * for all")
    trace: bool = Field(False, description="send OpenTelemetry spans to where OTEL_EXPORTER_OTLP_ENDPOINT says")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level to log")
    log_format: Literal["console", "json"] = Field("console", description="how a log line is written")
