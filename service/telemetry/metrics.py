"""The metrics for Prometheus, in a registry for each app, so that two apps in one process do not mix."""

from collections.abc import Mapping
from http import HTTPStatus

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

from service.engine.placement import Placement
from service.errors import Problem

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
STEP_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1)
SLACK_BUCKETS = (-10, -2.5, -1, -0.5, -0.25, -0.1, 0, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
PLAN_BUCKETS = (1, 2, 4, 8, 10, 15, 20, 30, 50, 100, 250, 500, 1000)
BATCH_BUCKETS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128)


class Metrics:
    """All metrics. It is the engine's `Observer`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.request_seconds = Histogram(
            "trilemma_request_seconds",
            "Time from a request's arrival to its answer",
            ["method", "status"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "trilemma_queue_wait_seconds",
            "Time from a request's arrival to its first step",
            ["method"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.step_seconds = Histogram(
            "trilemma_step_seconds",
            "Time of a network step of a batch",
            ["method"],
            buckets=STEP_BUCKETS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "trilemma_batch_size", "Images in a network step", ["method"], buckets=BATCH_BUCKETS, registry=registry
        )
        self.active_images = Gauge(
            "trilemma_active_images", "Images that have begun and not finished", registry=registry
        )
        self.waiting_images = Gauge("trilemma_waiting_images", "Images accepted and not begun", registry=registry)
        self.images = Counter("trilemma_images_total", "Images finished", ["method"], registry=registry)
        self.steps = Counter(
            "trilemma_steps_total", "Steps, counting each row of a batch", ["method"], registry=registry
        )
        self.requested_steps = Histogram(
            "trilemma_requested_steps",
            "Steps of each request, explicit or by default",
            ["method", "solver"],
            buckets=PLAN_BUCKETS,
            registry=registry,
        )
        self.likelihood_images = Counter(
            "trilemma_likelihood_images_total", "Images whose likelihood was asked for", ["method"], registry=registry
        )
        self.likelihood_terms = Histogram(
            "trilemma_likelihood_terms",
            "Terms an image of each request for a likelihood",
            ["method"],
            buckets=PLAN_BUCKETS,
            registry=registry,
        )
        self.rejections = Counter("trilemma_rejections_total", "Refused requests", ["reason"], registry=registry)
        self.missed_deadlines = Counter(
            "trilemma_missed_deadlines_total",
            "Accepted requests that missed their deadline",
            ["method"],
            registry=registry,
        )
        self.slack_seconds = Histogram(
            "trilemma_slack_seconds",
            "Time left of a deadline after the last step; negative if missed",
            ["method"],
            buckets=SLACK_BUCKETS,
            registry=registry,
        )
        self.cache_hits = Counter("trilemma_cache_hits_total", "Answers from the cache", registry=registry)
        self.shared = Counter("trilemma_shared_total", "Requests that joined an identical one", registry=registry)
        self.network_seconds = Counter(
            "trilemma_network_seconds_total", "Engine time in the network", registry=registry
        )
        self.busy_seconds = Counter("trilemma_busy_seconds_total", "Engine time with work", registry=registry)
        self.engine_up = Gauge("trilemma_engine_up", "0 after the engine has stopped by itself", registry=registry)
        self.queue_limit = Gauge(
            "trilemma_queue_limit_images", "Largest number of images accepted and not finished", registry=registry
        )
        self.workers = Gauge("trilemma_workers", "Network steps at a time at most", registry=registry)
        self.processors = Gauge(
            "trilemma_usable_processors", "Processors that affinity and cgroups let it use", registry=registry
        )
        self.memory_limit = Gauge(
            "trilemma_memory_limit_bytes", "Memory that the machine, cgroups and rlimits let it use", registry=registry
        )
        self.failed_bundles = Gauge("trilemma_failed_bundles", "Refused bundles", registry=registry)
        self.abandoned_loads = Counter(
            "trilemma_abandoned_loads_total",
            "Attempts to load a bundle that hang, and were left behind",
            registry=registry,
        )
        self.model_info = Gauge(
            "trilemma_model_info",
            "1 for each model served",
            ["method", "family", "dataset", "digest", "device"],
            registry=registry,
        )
        self.measured = Gauge(
            "trilemma_measured",
            "Measured quality and speed of each point, from the manifest",
            ["method", "solver", "steps", "settings", "measure"],
            registry=registry,
        )

    def stepped(self, method: str, rows: int, finished: int, seconds: float, share: float) -> None:
        """Counts a step of a batch on one worker, which is the share `share` of the machine."""
        self.step_seconds.labels(method).observe(seconds)
        self.batch_size.labels(method).observe(rows)
        self.steps.labels(method).inc(rows)
        self.images.labels(method).inc(finished)
        self.network_seconds.inc(seconds * share)

    def busy(self, seconds: float) -> None:
        """Counts seconds with work, of one worker divided by the number of workers."""
        self.busy_seconds.inc(seconds)

    def missed_deadline(self, method: str) -> None:
        self.missed_deadlines.labels(method).inc()

    def refused(self, problem: Problem) -> None:
        """Counts a refusal by reason; an error of the server's own is none."""
        if problem.status != HTTPStatus.INTERNAL_SERVER_ERROR:
            self.rejections.labels(problem.type.rpartition(":")[2]).inc()

    def publish_models(self, models: Mapping[str, Placement]) -> None:
        """Replaces the published models by these, with all their measured figures."""
        self.model_info.clear()
        self.measured.clear()
        for name, model in models.items():
            manifest = model.bundle.manifest
            self.model_info.labels(name, manifest.family, model.bundle.dataset, model.digest, model.device).set(1)
            for point in manifest.measured.points:
                settings = " ".join(f"{setting}={value}" for setting, value in point.settings.items())
                for measure, value in point.model_dump(
                    exclude={"solver", "steps", "settings"}, exclude_none=True
                ).items():
                    self.measured.labels(name, point.solver, point.steps, settings, measure).set(value)
