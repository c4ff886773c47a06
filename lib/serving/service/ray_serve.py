"""The service on a cluster, with Ray Serve: the same application in each of several replicas.

    serve run lib.serving.service.ray_serve:application mode=full root=/shared/run replicas=4

Ray spreads the requests and restarts what fails; within a replica everything is as on one machine:
its limits, its batches from a bounded queue, one bad meme that fails no other. (With `@serve.batch`
instead, an exception would go to every request of the batch.) Needs the extra `ray`, and the
run's folder where each replica can read it.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig

from lib.serving.service.settings import ServiceSettings

# Settings of a listening process, which is Ray's here.
_NOT_HERE = {"host", "port", "page"}


def application(arguments: Mapping[str, Any]) -> Application:
    """The application that `serve run` and `serve.run` start.

    `arguments` are `ServiceSettings` by name, and `replicas`, `cpus` and `gpus` of each. More
    requests than `queue` are answered 503 with Retry-After, by a replica as by Ray.
    Raises ValueError naming a setting that is unknown or cannot be.
    """
    given = dict(arguments)
    replicas, cpus = int(given.pop("replicas", 1)), float(given.pop("cpus", 1))
    gpus = float(given.pop("gpus", 0))
    if found := _NOT_HERE & given.keys():
        raise ValueError(f"{', '.join(sorted(found))}: not of a replica; give it to Ray Serve")
    settings = ServiceSettings.read(given)

    def build() -> FastAPI:
        # In the replica, which loads the models for itself.
        from lib.serving import MemeClassifier
        from lib.serving.service.app import create_app

        classifier = MemeClassifier.load(settings.root, settings.mode, settings.device)
        return create_app(classifier, settings)

    deployment = serve.deployment(
        name="memes",
        num_replicas=replicas,
        max_ongoing_requests=settings.queue,
        max_queued_requests=settings.queue,
        backpressure_config=BackpressureConfig(retry_after_s=settings.retry_after),
        graceful_shutdown_timeout_s=settings.read_timeout + settings.request_timeout,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
    )
    return deployment(serve.ingress(build)()).bind()
