"""The FastAPI application around a `MemeClassifier`."""

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator
from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException as StarletteHTTPException

from lib.layout import Layout
from lib.serving.classifier import MemeClassifier
from lib.serving.service import schema
from lib.serving.service.judging import Judging, facts_of
from lib.serving.service.limits import Limits
from lib.serving.service.logs import FACTS, LOGGER, RequestLog, where
from lib.serving.service.metrics import KeptHistograms
from lib.serving.service.requests import Fault, many_memes, one_meme
from lib.serving.service.settings import ServiceSettings

_OF_THE_BUNDLE = (
    *("mode", "temperatures", "thresholds", "policy", "fingerprints", "objective"),
    *("fit_split", "fit_part", "n", "prevalence"),
)
_LIMITS = ("max_items", "max_upload_mb", "max_pixels", "max_text", "request_timeout")


def create_app(classifier: MemeClassifier, settings: ServiceSettings | None = None) -> FastAPI:
    """The service of a classifier, with `settings.page` the page as well.

    Its lifespan starts and ends the model's thread, so that nothing is answered before or after.
    """
    settings = settings or ServiceSettings()
    place = Layout.model_validate(
        {"mode": settings.mode} | ({"root": settings.root} if settings.root else {})
    )
    histograms = KeptHistograms(place.artifact(8, "histograms.json"), classifier.decision.judged_by)
    judging = Judging(classifier, settings, histograms.add)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        judging.start()
        writing = asyncio.create_task(_write_now_and_then(histograms, settings.histogram_every))
        yield
        writing.cancel()
        await asyncio.to_thread(judging.close)
        _write(histograms)

    app = FastAPIOffline(
        redoc_url=None,
        title="calibrated-memes",
        version=version("calibrated-memes"),
        description="Text and picture of a meme in, calibrated probability and decision out.",
        lifespan=lifespan,
    )
    app.add_middleware(Limits, settings=settings)
    # Added last, so outermost: it counts and logs what the limits refuse, too.
    app.add_middleware(RequestLog, metrics=judging.metrics)
    app.add_exception_handler(StarletteHTTPException, _as_json)
    _add_memes(app, judging, settings)
    _add_model(app, judging, classifier, settings)
    if settings.page:
        from lib.serving.page import mount

        app = mount(app, classifier, judging.ask, settings.max_upload_mb)
    return app


def _add_memes(app: FastAPI, judging: Judging, settings: ServiceSettings) -> None:
    """The routes that judge memes."""
    options: dict[str, Any] = {"dependencies": [_token(settings)], "responses": schema.ERRORS}

    async def answers(request: Request, sent: list[Any]) -> list[Any]:
        found = await judging.answer(sent)
        request.scope[FACTS].update(facts_of(found))
        return found

    @app.post("/predict", response_model=schema.Answer, openapi_extra=schema.ONE, **options)
    async def predict(request: Request) -> Response:
        """Judge one meme, sent as a form with `text` and the file `image`, or as JSON."""
        (found,) = await answers(request, [await one_meme(request)])
        if isinstance(found, Fault):
            return JSONResponse({"error": found.said}, found.status)
        return JSONResponse(found)

    @app.post(
        "/predict_batch",
        response_model=list[schema.Answer | schema.Unanswered],
        openapi_extra=schema.MANY,
        **options,
    )
    async def predict_batch(request: Request) -> Response:
        """Judge several memes: a JSON list, or a form with the fields repeated.

        The answers come in the order of the memes. One that has none says why, and the others are
        answered.
        """
        found = await answers(request, await many_memes(request, settings.max_items))
        return JSONResponse([x.as_json() if isinstance(x, Fault) else x for x in found])


def _add_model(
    app: FastAPI, judging: Judging, classifier: MemeClassifier, settings: ServiceSettings
) -> None:
    """The routes that say what answers, and how it fares."""

    # What balances load may ask for the head alone.
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", response_model=schema.Health)
    async def healthz() -> Response:
        """Whether the process lives."""
        return JSONResponse({"status": "alive"})

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", response_model=schema.Health, responses={503: schema.ERRORS[503]})
    async def readyz() -> Response:
        """Whether memes are judged."""
        if not judging.ready:
            return JSONResponse({"error": "the model is not running"}, 503)
        return JSONResponse({"status": "ready"})

    @app.get("/model", response_model=schema.ModelInfo, dependencies=[_token(settings)])
    async def model() -> Response:
        """Temperatures, thresholds, policy and fingerprints of what answers."""
        return JSONResponse(model_info(classifier, settings))

    @app.get("/metrics", dependencies=[_token(settings)])
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(judging.metrics.text(), media_type="text/plain; version=0.0.4")


def model_info(classifier: MemeClassifier, settings: ServiceSettings) -> dict[str, Any]:
    """What `/model` tells, as JSON."""
    decision = asdict(classifier.decision)
    info: dict[str, Any] = {name: decision[name] for name in _OF_THE_BUNDLE}
    info["engine"] = {**classifier.engine, "device": str(classifier.model.device)}
    info["limits"] = settings.model_dump(include=set(_LIMITS))
    return info


def _token(settings: ServiceSettings) -> Any:
    """The dependency that lets in who knows the token; everybody where there is none."""
    if settings.token is None:
        return Depends(lambda: None)
    expected = settings.token.get_secret_value().encode()
    bearer = HTTPBearer(auto_error=False)

    async def check(
        sent: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    ) -> None:
        # Headers are read as Latin-1, whatever letters a client wrote in UTF-8.
        given = sent.credentials.encode("latin-1") if sent else b""
        if not hmac.compare_digest(given, expected):
            raise HTTPException(
                401, "send the header 'Authorization: Bearer TOKEN'", {"WWW-Authenticate": "Bearer"}
            )

    return Depends(check)


async def _as_json(_: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    said = "there is no such path" if error.detail == "Not Found" else error.detail
    return JSONResponse({"error": said}, error.status_code, error.headers)


async def _write_now_and_then(histograms: KeptHistograms, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(_write, histograms)


def _write(histograms: KeptHistograms) -> None:
    try:
        histograms.write()
    except OSError as error:
        LOGGER.warning("histograms were not written", extra={"facts": where(error)})
