"""`GET /load`: what balancers ask each replica, as JSON. `/metrics` has the same as gauges: docs/balancing.md."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from service.engine.admission import MAX_PROMISED_UTILIZATION
from service.http.routes import PROBLEM, State
from service.telemetry.load_report import by_method

MAX_STEPS = 1_000_000  # of a question: no model takes as many
router = APIRouter(responses={"4XX": PROBLEM, "5XX": PROBLEM})


class LoadQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    steps: int | None = Field(None, ge=1, le=MAX_STEPS, description="of the request; default: each model's default")


class MethodLoadInfo(BaseModel):
    steps: int = Field(description="network evaluations of the request that the times are for")
    wait_s: float = Field(description="how much later a request would end than it does alone; 0 if nothing is queued")
    end_s: float = Field(description="seconds until it would end")
    spare_steps_per_s: float = Field(description="steps a second that could be done beside what is done now")
    promised_utilization: float = Field(description="share of the machine that this method's accepted deadlines need")


class LoadInfo(BaseModel):
    utilization: float = Field(description="share of its largest throughput that accepted work uses now")
    promised_utilization: float = Field(description="share of the machine that all accepted deadlines need")
    max_promised_utilization: float = Field(description="beyond it a request with a deadline is refused")
    methods: dict[str, MethodLoadInfo]


@router.get("/load", responses={503: {"description": "The engine does not run"}})
async def load(state: State, query: Annotated[LoadQuery, Query()]) -> LoadInfo:
    """For balancers: how long a request of one image would take here, by method, and what is to spare."""
    forecast = state.engine.forecast()
    methods = by_method(forecast, state.models.served(), query.steps)
    return LoadInfo(
        utilization=forecast.utilization,
        promised_utilization=sum(forecast.promised.values()),
        max_promised_utilization=MAX_PROMISED_UTILIZATION,
        methods={method: MethodLoadInfo.model_validate(load, from_attributes=True) for method, load in methods.items()},
    )
