"""The shapes of requests and answers, for the OpenAPI page; nothing is checked by them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Experts(BaseModel):
    """Calibrated probability of each expert alone."""

    text_expert: float
    vision_expert: float


class RestsOn(BaseModel):
    """Fusion's calibrated probability if a part of the meme were missing."""

    without_text: float
    without_picture: float


class Answer(BaseModel):
    """What `MemeClassifier.predict` says of a meme."""

    prob_hate: float = Field(description="calibrated probability of hate or abuse")
    label: Literal[0, 1] = Field(description="1 where prob_hate reaches the threshold")
    threshold: float
    decision: Literal["allow", "review", "block"] = Field(description="by the policy")
    review: bool = Field(description="whether a person should look")
    logits: list[float] = Field(description="fusion's, non-hate first")
    experts: Experts
    rests_on: RestsOn
    text: str = Field(description="as it was judged")
    text_from: Literal["given", "picture"]


class Error(BaseModel):
    """Why there is no answer, in one line."""

    error: str


class Unanswered(Error):
    """A meme of a batch that has no answer, with the status it would have alone."""

    status: int


class Health(BaseModel):
    """Whether the service lives, or is ready."""

    status: str


class ModelInfo(BaseModel):
    """What answers: the models' fingerprints, and all that turns their logits into decisions."""

    model_config = ConfigDict(extra="allow")

    mode: str
    temperatures: dict[str, float]
    thresholds: dict[str, float]
    policy: dict[str, Any]
    fingerprints: dict[str, str]
    engine: dict[str, Any]
    limits: dict[str, float]


_TEXT = {
    "type": ["string", "null"],
    "description": "the overlaid text; left out, it is read off the picture",
}
_FILE = {"type": "string", "contentMediaType": "application/octet-stream"}
_BASE64 = {
    "type": ["string", "null"],
    "contentEncoding": "base64",
    "description": "the picture file's bytes; left out, the text is judged alone",
}
_MEME = {
    "type": "object",
    "properties": {"text": _TEXT, "image": _BASE64},
    "additionalProperties": False,
    "examples": [{"text": "monday again", "image": None}],
}


def _body(form: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    properties = {"schema": {"type": "object", "properties": form}}
    content = {"multipart/form-data": properties, "application/json": {"schema": document}}
    return {"requestBody": {"required": True, "content": content}}


ONE = _body({"text": _TEXT, "image": _FILE}, _MEME)
MANY = _body(
    {
        "text": {"type": "array", "items": _TEXT},
        "image": {"type": "array", "items": _FILE},
    },
    {"type": "array", "items": _MEME},
)

_SAID = {
    400: "The request cannot be read, or broke off",
    401: "The token is missing or wrong",
    408: "The request did not arrive in time",
    413: "The request has too many bytes",
    415: "The request is neither a form nor JSON",
    422: "A text or picture cannot be judged",
    500: "The model failed",
    501: "The text cannot be read off pictures here",
    503: "Too much is waiting; try again after Retry-After seconds",
    504: "There was no answer in time",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": said} for status, said in _SAID.items()
}
