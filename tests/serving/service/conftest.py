"""A service around the classifier of the tiny full run, in this process."""

import base64
import io

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from lib.serving import MemeClassifier
from lib.serving.service.app import create_app
from lib.serving.service.settings import ServiceSettings


@pytest.fixture(scope="session")
def classifier(full_root):
    return MemeClassifier.load(full_root.root, "full", device="cpu")


@pytest.fixture(scope="session")
def service_root(tmp_path_factory):
    """Where a service in this process writes its histograms."""
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="session")
def client_of(classifier, service_root):
    """A client of a service with its limits changed by keyword; enter it to start the service."""

    def client(**changed):
        judged_by = changed.pop("classifier", classifier)
        settings = ServiceSettings(**({"mode": "full", "root": service_root} | changed))
        return TestClient(create_app(judged_by, settings), raise_server_exceptions=False)

    return client


@pytest.fixture(scope="module")
def client(client_of):
    with client_of() as running:
        yield running


@pytest.fixture(scope="session")
def picture():
    file = io.BytesIO()
    Image.effect_noise((90, 60), 80).convert("RGB").save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="session")
def as_json():
    """A meme as the JSON of a request."""

    def meme(text, image):
        coded = None if image is None else base64.b64encode(image).decode()
        return {"text": text, "image": coded}

    return meme
