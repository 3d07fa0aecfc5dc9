"""The dashboards as tables of panels: `python deploy/grafana/dashboards.py` writes them as the JSON that Grafana reads.

A new panel is a line in one of the tables below; where it lies follows from its place in them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
WIDTH, HEIGHT, COLUMNS = 8, 8, 3  # of a panel in Grafana's grid, which is 24 wide


@dataclass(frozen=True)
class Panel:
    """A panel; `queries` are PromQL by legend, where {{label}} stands for a label's value."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    type: str = "timeseries"
    description: str = ""
    least: int | None = 0  # where the axis begins; None: where the data does


def quantiles(metric: str, *by: str, of: tuple[float, ...] = (0.5, 0.95, 0.99)) -> dict[str, str]:
    """Median and tail of a histogram, by method and whatever else."""
    labels = ", ".join(("le", "method", *by))
    legend = " ".join(f"{{{{{label}}}}}" for label in ("method", *by))
    rate = f'sum by ({labels}) (rate({metric}_bucket{{method=~"$method"}}[$__rate_interval]))'
    return {f"{legend} p{100 * q:g}": f"histogram_quantile({q}, {rate})" for q in of}


def per_second(metric: str, *by: str) -> dict[str, str]:
    """A counter's rate, by method and whatever else."""
    labels = ("method", *by)
    legend = " ".join(f"{{{{{label}}}}}" for label in labels)
    return {legend: f'sum by ({", ".join(labels)}) (rate({metric}{{method=~"$method"}}[$__rate_interval]))'}


def share(part: str, labels: str, whole: str) -> dict[str, str]:
    """What a counter, under some labels, is of another, by method; 0 where it never counted."""
    ((legend, all_),) = per_second(whole).items()
    ((_, some),) = per_second(part).items()
    some = some.replace('"$method"', f'"$method", {labels}')
    return {legend: f"({some} or 0 * {all_}) / ({all_} > 0)"}


def mean(metric: str, *by: str) -> dict[str, str]:
    """A histogram's mean, by method and whatever else."""
    ((legend, total),) = per_second(f"{metric}_sum", *by).items()
    ((_, count),) = per_second(f"{metric}_count", *by).items()
    return {f"{legend} mean": f"{total} / ({count} > 0)"}


def measured(measure: str) -> str:
    """One measure of every measured point, under a name that joins it with the point's other measures."""
    chosen = f'trilemma_measured{{method=~"$method", measure="{measure}"}}'
    named = f'label_join({chosen}, "point", " ", "method", "solver", "steps", "settings")'
    return f"max by (point) ({named})"


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
            description="Of the time; the distance between the two is what the engine costs",
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
            least=None,
            description="Left of a deadline when the last step was done; below 0 it was missed",
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
        Panel("Steps done", per_second("trilemma_steps_total"), "ops", description="A row of a batch counts as one"),
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
            description="A batch's steps divided by its images: what the choice of steps costs the server",
        ),
    ],
    "Speed against measured quality": [
        Panel(
            "Speed and quality",
            {"ms": measured("alone_ms"), "quality": measured("$quality")},
            type="xychart",
            description="As `./run evaluate` measured them: one image alone, a point each",
        ),
        Panel("Measured points", {"ms": measured("alone_ms"), "quality": measured("$quality")}, type="table"),
    ],
}

JOIN = [
    {"id": "joinByField", "options": {"byField": "point", "mode": "inner"}},
    {
        "id": "organize",
        "options": {
            "excludeByName": {"Time": True, "Time 1": True, "Time 2": True},
            "renameByName": {"Value #A": "ms for one image alone", "Value #B": "quality"},
        },
    },
]


def targets(panel: Panel) -> list[dict[str, Any]]:
    """The panel's queries: an instant one where the panel shows no time."""
    instant = panel.type in ("table", "xychart")
    form = {"table": "table", "xychart": "table", "heatmap": "heatmap"}.get(panel.type, "time_series")
    return [
        {
            "refId": chr(ord("A") + i),
            "datasource": DATASOURCE,
            "expr": query,
            "legendFormat": legend,
            "format": form,
            "instant": instant,
            "range": not instant,
        }
        for i, (legend, query) in enumerate(panel.queries.items())
    ]


def drawn(panel: Panel, id: int, x: int, y: int) -> dict[str, Any]:
    """The panel as Grafana's JSON has it."""
    return {
        "id": id,
        "type": panel.type,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": panel.least}, "overrides": []},
        "options": {"mapping": "auto"} if panel.type == "xychart" else {},
        "targets": targets(panel),
        "transformations": JOIN if len(panel.queries) > 1 and panel.type in ("table", "xychart") else [],
    }


def layout(rows: dict[str, list[Panel]]) -> list[dict[str, Any]]:
    """Every row's heading, then its panels from left to right."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in rows.items():
        heading = {"x": 0, "y": y, "w": 24, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": heading, "panels": []})
        y += 1
        for i, panel in enumerate(row):
            panels.append(drawn(panel, len(panels) + 1, i % COLUMNS * WIDTH, y + i // COLUMNS * HEIGHT))
        y += -(-len(row) // COLUMNS) * HEIGHT
    return panels


def variable(name: str, query: str, **more: Any) -> dict[str, Any]:
    asked = {"qryType": 1, "query": query, "refId": name}
    return {"type": "query", "name": name, "datasource": DATASOURCE, "query": asked, "refresh": 2, **more}


METHOD = variable(
    "method", "label_values(trilemma_model_info, method)", multi=True, includeAll=True, allValue=".*",
    current={"text": "All", "value": "$__all"},
)  # fmt: skip
QUALITY = variable(
    "quality", "label_values(trilemma_measured, measure)", regex="/^(?!alone_ms|images|classifier_accuracy).*$/"
)


def dashboard(
    uid: str, title: str, rows: dict[str, list[Panel]], variables: list[dict[str, Any]], other: tuple[str, str]
) -> dict[str, Any]:
    """A dashboard, with a link to the `other` one: its title and uid."""
    link = {
        "type": "link",
        "title": other[0],
        "url": f"/d/{other[1]}",
        "icon": "dashboard",
        "keepTime": True,
        "includeVars": True,
    }
    return {
        "uid": uid,
        "title": title,
        "tags": ["trilemma"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "links": [link],
        "templating": {"list": variables},
        "panels": layout(rows),
    }


DASHBOARDS = [
    dashboard("trilemma-service", "The service", SERVICE, [METHOD], ("The trilemma", "trilemma-trade")),
    dashboard("trilemma-trade", "The trilemma", TRADE, [METHOD, QUALITY], ("The service", "trilemma-service")),
]


def written(board: dict[str, Any]) -> str:
    """The file's content."""
    return json.dumps(board, indent=1) + "\n"


def main() -> None:
    for board in DASHBOARDS:
        (FOLDER / f"{board['uid']}.json").write_text(written(board))


if __name__ == "__main__":
    main()
