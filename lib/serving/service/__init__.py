"""Step 8 as a web service: requests flow in, the answers of one `MemeClassifier` flow out.

A request passes `logs` (its line and number), `limits` (its size and time) and `requests` (what it
asks), `judging` reads its memes beside the model, `model_thread` shows them to it in batches, and
`app` answers. Needs the extra `serve`; `python -m lib.serving.service` starts it.
"""
