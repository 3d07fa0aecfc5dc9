"""`python -m deploy.grafana.dashboards` writes the tables of `panels` as the JSON dashboards that Grafana reads."""

import json
from pathlib import Path
from typing import Any

from deploy.grafana.panels import SERVICE, TRADE, Panel

FOLDER = Path(__file__).parent / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
WIDTH, HEIGHT, COLUMNS = 8, 8, 3  # of a panel in Grafana's grid, which is 24 wide

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
    """The panel's queries: instant ones if the panel has no time axis."""
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


def panel_json(panel: Panel, id: int, x: int, y: int) -> dict[str, Any]:
    """The panel in Grafana's JSON model, at (x, y) of the grid."""
    return {
        "id": id,
        "type": panel.type,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": panel.min}, "overrides": []},
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
            panels.append(panel_json(panel, len(panels) + 1, i % COLUMNS * WIDTH, y + i // COLUMNS * HEIGHT))
        y += -(-len(row) // COLUMNS) * HEIGHT
    return panels


def variable(name: str, query: str, **more: Any) -> dict[str, Any]:
    """A variable of a dashboard, whose values come from a query."""
    values = {"qryType": 1, "query": query, "refId": name}
    return {"type": "query", "name": name, "datasource": DATASOURCE, "query": values, "refresh": 2, **more}


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


def serialised(board: dict[str, Any]) -> str:
    """The content of the dashboard's file."""
    return json.dumps(board, indent=1) + "\n"


def main() -> None:
    for board in DASHBOARDS:
        (FOLDER / f"{board['uid']}.json").write_text(serialised(board))


if __name__ == "__main__":
    main()
