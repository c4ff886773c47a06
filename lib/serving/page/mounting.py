"""The page on an application of FastAPI."""

import tempfile
from pathlib import Path

import gradio as gr
from fastapi import FastAPI, Response
from fastapi.responses import RedirectResponse
from starlette.routing import Mount

from lib.serving.classifier import MemeClassifier
from lib.serving.memes import read_meme
from lib.serving.page.examples import draw_examples
from lib.serving.page.layout import Judge, build_page

PATH = "/page"
MOST_MB = 20


def mount(
    app: FastAPI,
    classifier: MemeClassifier,
    judge: Judge | None = None,
    max_upload_mb: float = MOST_MB,
) -> FastAPI:
    """Serve the page of a classifier at `PATH` of `app`; returns `app`.

    `judge` answers one text and picture in the form of `MemeClassifier.predict`; by default the
    classifier does at once, a service has its queue and its limits do it. Larger files than
    `max_upload_mb` are refused.
    """
    # Held by the application, and gone with it.
    app.state.examples = tempfile.TemporaryDirectory()
    examples = draw_examples(Path(app.state.examples.name))
    judge = judge or (lambda text, image: classifier.judge([read_meme(text, image)])[0])
    page = build_page(judge, classifier.decision, examples)
    fonts = [gr.themes.Font(name) for name in ("system-ui", "Segoe UI", "Arial", "sans-serif")]
    code = [gr.themes.Font(name) for name in ("ui-monospace", "monospace")]
    theme = gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=fonts, font_mono=code)
    # Browsers ask for it of whatever is there.
    app.add_api_route("/favicon.ico", lambda: Response(status_code=204), include_in_schema=False)
    app.add_api_route("/", lambda: RedirectResponse(f"{PATH}/"), include_in_schema=False)
    gr.mount_gradio_app(
        app,
        page,
        PATH,
        theme=theme,
        css_paths=Path(__file__).with_name("page.css"),
        allowed_paths=[app.state.examples.name],
        max_file_size=int(max_upload_mb * 1e6),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        show_error=False,
    )
    # Set by `launch` alone, and without it Gradio opens any file that a client names.
    page.has_launched = True
    # Gradio's own application, whose streams end with the service (`lib.serving.service.server`).
    mounted = (route for route in app.routes if isinstance(route, Mount))
    app.state.page = next(route.app for route in mounted if route.path == PATH)
    return app
