import pytest

from tests.serving.bad_inputs import TEXT, noise, saved

serve_module = pytest.importorskip("lib.serving.service.ray_serve", reason="needs the extra ray")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"port": "1"}, "port: not of a replica"),
        ({"modes": "full"}, "MEMES_MODES|--modes"),
        ({"mode": "half"}, "--mode=half"),
    ],
)
def test_impossible_arguments_are_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        serve_module.application(arguments)


@pytest.mark.slow
def test_a_replica_answers_as_the_classifier(full_root, classifier, as_json, tmp_path):
    import httpx
    import ray
    from ray import serve

    root = tmp_path / "root"
    root.mkdir()
    for name in ("models", "Step_7"):
        (root / name).symlink_to(full_root.root / name)
    picture = saved(noise(), "JPEG")
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        serve.start(http_options={"port": 18_431})
        arguments = {"mode": "full", "root": str(root), "device": "cpu", "retry_after": "2"}
        serve.run(serve_module.application(arguments))
        with httpx.Client(base_url="http://127.0.0.1:18431", timeout=60) as client:
            assert client.get("/readyz").json() == {"status": "ready"}
            memes = [as_json(TEXT, picture), as_json(TEXT, b"rubbish"), as_json(TEXT, None)]
            good, bad, text = client.post("/predict_batch", json=memes).json()
            for found, expected in zip(
                (good, text), classifier.predict_batch([TEXT] * 2, [picture, None]), strict=True
            ):
                assert found["prob_hate"] == pytest.approx(expected["prob_hate"], abs=1e-5)
                assert found["decision"] == expected["decision"]
            assert bad["status"] == 422
            assert client.post("/predict", content=b"{").status_code == 415
            found = client.get("/model").json()["fingerprints"]
            assert found == classifier.decision.fingerprints
    finally:
        serve.shutdown()
        ray.shutdown()
