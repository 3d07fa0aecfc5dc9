"""The panels of the dashboards as tables: a new panel is a line in one of them, and its place follows from the line's.

Queries are PromQL with Grafana's variables: `$method` matches the chosen methods, `$quality` a measure.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """A panel. `queries` are PromQL by legend, in which {{label}} stands for a label's value."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    type: str = "timeseries"
    description: str = ""
    min: int | None = 0  # where the axis begins; None: at the smallest value


def quantiles(metric: str, *by: str, of: tuple[float, ...] = (0.5, 0.95, 0.99)) -> dict[str, str]:
    """Quantiles of a histogram, by method and the labels `by`."""
    labels = ", ".join(("le", "method", *by))
    legend = " ".join(f"{{{{{label}}}}}" for label in ("method", *by))
    rate = f'sum by ({labels}) (rate({metric}_bucket{{method=~"$method"}}[$__rate_interval]))'
    return {f"{legend} p{100 * q:g}": f"histogram_quantile({q}, {rate})" for q in of}


def per_second(metric: str, *by: str) -> dict[str, str]:
    """A counter's rate, by method and the labels `by`."""
    labels = ("method", *by)
    legend = " ".join(f"{{{{{label}}}}}" for label in labels)
    return {legend: f'sum by ({", ".join(labels)}) (rate({metric}{{method=~"$method"}}[$__rate_interval]))'}


def share(part: str, labels: str, total: str) -> dict[str, str]:
    """The rate of a counter with these labels over the rate of another, by method; 0 if it never counted."""
    ((legend, total_rate),) = per_second(total).items()
    ((_, part_rate),) = per_second(part).items()
    part_rate = part_rate.replace('"$method"', f'"$method", {labels}')
    return {legend: f"({part_rate} or 0 * {total_rate}) / ({total_rate} > 0)"}


def mean(metric: str, *by: str) -> dict[str, str]:
    """A histogram's mean, by method and the labels `by`."""
    ((legend, total),) = per_second(f"{metric}_sum", *by).items()
    ((_, count),) = per_second(f"{metric}_count", *by).items()
    return {f"{legend} mean": f"{total} / ({count} > 0)"}


def measured(measure: str) -> str:
    """One measure of every measured point, with a label `point` by which it joins the point's other measures."""
    values = f'trilemma_measured{{method=~"$method", measure="{measure}"}}'
    labelled = f'label_join({values}, "point", " ", "method", "solver", "steps", "settings")'
    return f"max by (point) ({labelled})"


SERVICE: dict[str, list[Panel]] = {
    "Golden signals": [
        Panel("Traffic", per_second("trilemma_request_seconds_count", "status"), "reqps"),
        Panel(
            "Errors",
            {
                "5xx, of all": "trilemma:errors:ratio_rate5m",
                **share("trilemma_request_seconds_count", 'status=~"5.."', "trilemma_request_seconds_count"),
            },
            "percentunit",
            description="The objective is 0.1 % in a month",
        ),
        Panel("Latency", quantiles("trilemma_request_seconds"), "s"),
        Panel(
            "Saturation",
            {
                "engine has work": 'rate(trilemma_busy_seconds_total{job=~"trilemma.*"}[$__rate_interval])',
                "inside the network": 'rate(trilemma_network_seconds_total{job=~"trilemma.*"}[$__rate_interval])',
            },
            "percentunit",
            description="Shares of the time; the difference of the two is the engine's overhead",
        ),
        Panel("Engine", {"{{instance}} runs": "trilemma_engine_up"}, "bool_yes_no", "stat"),
        Panel("Alerts firing", {"alerts": 'count(ALERTS{alertstate="firing"}) or vector(0)'}, type="stat"),
    ],
    "Queue": [
        Panel(
            "Images",
            {
                "begun": "trilemma_active_images",
                "waiting": "trilemma_waiting_images",
                "limit": "trilemma_queue_limit_images",
            },
        ),
        Panel("Wait for the first step", quantiles("trilemma_queue_wait_seconds"), "s"),
        Panel(
            "Begun after more than a second",
            {"of all": "trilemma:late:ratio_rate5m"},
            "percentunit",
            description="The objective is 5 % in a month",
        ),
        Panel(
            "Refused, by reason",
            {"{{reason}}": "sum by (reason) (rate(trilemma_rejections_total[$__rate_interval]))"},
            "reqps",
        ),
        Panel(
            "Not computed",
            {
                "from the cache": "rate(trilemma_cache_hits_total[$__rate_interval])",
                "with an identical one": "rate(trilemma_shared_total[$__rate_interval])",
            },
            "reqps",
        ),
    ],
    "Deadlines": [
        Panel(
            "Slack",
            quantiles("trilemma_slack_seconds", of=(0.5, 0.05, 0.01)),
            "s",
            min=None,
            description="Time from the last step to the deadline; negative if it was missed",
        ),
        Panel(
            "Missed",
            {
                "of all": "trilemma:missed:ratio_rate5m",
                **share("trilemma_slack_seconds_bucket", 'le="0.0"', "trilemma_slack_seconds_count"),
            },
            "percentunit",
            description="The objective is 1 % in a month",
        ),
    ],
    "Steps": [
        Panel("Time of a step", quantiles("trilemma_step_seconds"), "s"),
        Panel("Batch", {**mean("trilemma_batch_size"), **quantiles("trilemma_batch_size")}),
        Panel("Steps done", per_second("trilemma_steps_total"), "ops", description="Each row of a batch counts"),
    ],
    "Process": [
        Panel("CPU", {"cores": 'rate(process_cpu_seconds_total{job=~"trilemma.*"}[$__rate_interval])'}, "short"),
        Panel("Memory", {"resident": 'process_resident_memory_bytes{job=~"trilemma.*"}'}, "bytes"),
        Panel("Open files", {"open": 'process_open_fds{job=~"trilemma.*"}'}),
        Panel("Models", {"": "trilemma_model_info"}, type="table"),
        Panel("Bundles refused", {"refused": "trilemma_failed_bundles"}, type="stat"),
    ],
}

TRADE: dict[str, list[Panel]] = {
    "What callers choose": [
        Panel("Requests by method and solver", per_second("trilemma_requested_steps_count", "solver"), "reqps"),
        Panel(
            "Steps asked for", {**mean("trilemma_requested_steps", "solver"), **quantiles("trilemma_requested_steps")}
        ),
        Panel(
            "Steps asked for, spread",
            {"{{le}}": 'sum by (le) (increase(trilemma_requested_steps_bucket{method=~"$method"}[$__rate_interval]))'},
            type="heatmap",
        ),
    ],
    "What they get": [
        Panel("Images", per_second("trilemma_images_total"), "ops"),
        Panel("Latency", mean("trilemma_request_seconds"), "s"),
        Panel(
            "Network time an image",
            {
                "{{method}}": 'sum by (method) (rate(trilemma_step_seconds_sum{method=~"$method"}[$__rate_interval]))'
                ' / (sum by (method) (rate(trilemma_images_total{method=~"$method"}[$__rate_interval])) > 0)'
            },
            "s",
            description="Time of the network's steps over the finished images: the server's cost of the chosen steps",
        ),
    ],
    "Speed against measured quality": [
        Panel(
            "Speed and quality",
            {"ms": measured("alone_ms"), "quality": measured("$quality")},
            type="xychart",
            description="Measured by `./run evaluate`: a point for each way of sampling, with the latency of one image",
        ),
        Panel("Measured points", {"ms": measured("alone_ms"), "quality": measured("$quality")}, type="table"),
    ],
}
