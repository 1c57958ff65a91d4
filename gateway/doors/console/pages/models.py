"""Models that the reader's key may use, and where they are served."""

from __future__ import annotations

from aiohttp import web

from gateway.doors.console.routes import Live, Page
from gateway.doors.console.visits import Visit
from moegate.v1 import inference_pb2

_TASKS = {
    inference_pb2.MODEL_TASK_GENERATE: "generates",
    inference_pb2.MODEL_TASK_EMBED: "embeds",
    inference_pb2.MODEL_TASK_SCORE: "scores",
}


async def _models(visit: Visit) -> dict[str, object]:
    request = inference_pb2.ListModelsRequest()
    answer = await visit.calls.inference.ListModels(request, **visit.rpc)
    tasks = {
        model.name: ", ".join(_TASKS[task] for task in model.tasks if task in _TASKS)
        for model in answer.models
    }
    return {"models": answer.models, "tasks": tasks}


async def _page(visit: Visit) -> web.Response:
    return await visit.page("models.html")


MODELS_PAGES = (
    Page(
        path="/models",
        handle=_page,
        name="Models",
        group="Operations",
        live=Live(template="models_live.html", values=_models),
    ),
)
