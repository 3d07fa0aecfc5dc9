"""A model that knows no classes: exported, served, and asked for a class that it cannot have."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from export.onnx_bundle import export
from models import checkpoint
from models.checkpoint import Card
from models.ddim.loss import SCHEDULE
from service.app import create_app
from service.settings import Settings
from tests.service.conftest import wait_until_loaded

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS: dict[str, dict[str, Any]] = {
    "ddim": {"network": {"channels": [8, 32]}, "noise_schedule": SCHEDULE},
    "latent": {
        "network": {"state_shape": [3, 4, 4], "width": 8, "tokens_width": 16, "blocks": 2},
        "noise_schedule": {**SCHEDULE, "clip": 4.0},
    },
}


@pytest.mark.parametrize("family", NETWORKS)
def test_a_model_without_classes_is_exported_and_served_and_refuses_a_class(tmp_path: Path, family: str) -> None:
    settings = {"shape": (1, 16, 16), "classes": [], "recommended_steps": 2, "training": {}, **NETWORKS[family]}
    card = Card(name="plain", family=family, **settings)
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "checkpoint", card, card.build().state_dict())
    export(tmp_path / "checkpoint", tmp_path / "bundles" / "plain")
    with TestClient(create_app(Settings(bundles=tmp_path / "bundles", watch_s=0))) as client:
        wait_until_loaded(client)
        (method,) = client.get("/methods").json()
        assert method["classes"] == []
        assert client.post("/generate", json={"method": "plain", "seed": 1}).status_code == 200
        for label in (0, "a"):
            refused = client.post("/generate", json={"method": "plain", "class_label": label})
            assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "class_label")
            assert refused.json()["errors"][0]["detail"] == "plain has no classes"
