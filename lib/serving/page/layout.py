"""What stands where on the page, and what happens when something is dropped, typed or moved."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from lib.decisions.bundle import DecisionBundle
from lib.serving.page.answer import (
    bars_html,
    fault_html,
    nothing_html,
    rounded,
    scale_html,
    trial_html,
    verdict_html,
)

LOGGER = logging.getLogger(__name__)
TITLE = "Calibrated memes"
# Seconds: what was uploaded is deleted when it is this old, and how often is looked for it.
_KEPT, _SWEPT = 3600, 600
# Events that may wait at once; more are told that it is busy.
_WAITING = 64
# Answers on a text, None to read it off the picture, and the picture's content.
Judge = Callable[[str | None, bytes | None], dict[str, Any]]


# In the browser, before the server is asked: what is typed while a picture is read would be lost.
_LOCK = """picture => picture
    ? [{__type__: "update", interactive: false, placeholder: "being read off the picture …"},
       {__type__: "update", visible: true}]
    : [{__type__: "update"}, {__type__: "update", visible: false}]"""
_UNLOCK = '() => ({__type__: "update", interactive: true, placeholder: "none"})'
# Stays where no answer comes, whatever the reason.
_OUTDATE = '() => ({__type__: "update", elem_classes: ["earlier"]})'


class Seen(NamedTuple):
    """The text that was last judged or shown, and its answer if there is one.

    One that was not `typed` was read off the picture, and goes with it.
    """

    text: str
    answer: dict[str, Any] | None
    typed: bool = True


def build_page(judge: Judge, decision: DecisionBundle, examples: Sequence[Path]) -> gr.Blocks:
    """The page around `judge`, which answers one meme; `decision` has the threshold and policy.

    `examples` are files of pictures, which must stay where they are.
    """
    acts = _Acts(judge, decision)
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(_SWEPT, _KEPT), fill_width=False
    ) as page:
        seen = gr.State(Seen("", None))
        gr.HTML(_head(decision), elem_id="head")
        with gr.Row():
            with gr.Column(elem_id="meme", min_width=300):
                picture, text, again = _meme(examples)
            with gr.Column(elem_id="answer", min_width=300):
                answer, cut = _answer(rounded(decision.thresholds["mm_fusion"]))
        _act(acts, picture, text, again, seen, answer, cut)
    for block in page.blocks.values():
        _refuse_addresses(block)
    page.queue(max_size=_WAITING)
    return page


class _Answer(NamedTuple):
    """The parts of the page that show an answer, from above."""

    verdict: gr.HTML
    scale: gr.HTML
    tried: gr.Column
    trial: gr.HTML
    bars: gr.HTML


def _meme(examples: Sequence[Path]) -> tuple[gr.Image, gr.Textbox, gr.Button]:
    picture = gr.Image(
        label="Picture",
        show_label=False,
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=340,
        buttons=[],
        elem_id="picture",
        alt_text="the meme",
    )
    # The file as it came, so that the answer is that of every other door.
    picture.preprocess = _path_of  # type: ignore[method-assign]
    text = gr.Textbox(label="Text on it", lines=2, max_lines=6, elem_id="text", placeholder="none")
    again = gr.Button("Read the text off the picture", size="sm", elem_id="again", visible=False)
    _add_examples(picture, [str(path) for path in examples])
    return picture, text, again


def _answer(threshold: float) -> tuple[_Answer, gr.Slider]:
    verdict = gr.HTML(nothing_html(), elem_id="verdict")
    scale = gr.HTML(elem_id="scale")
    # Shown and hidden in place of the slider, which Gradio would make anew for it.
    with gr.Column(visible=False) as tried:
        cut = gr.Slider(
            *(0, 1, threshold),
            step=0.001,
            label="Try another threshold",
            buttons=["reset"],
            elem_id="cut",
        )
    # Gradio's own answers with an error before anybody is asked.
    cut.preprocess = _on_scale  # type: ignore[assignment, method-assign]
    return _Answer(verdict, scale, tried, gr.HTML(elem_id="trial"), gr.HTML(elem_id="bars")), cut


def _act(
    acts: "_Acts",
    picture: gr.Image,
    text: gr.Textbox,
    again: gr.Button,
    seen: gr.State,
    answer: _Answer,
    cut: gr.Slider,
) -> None:
    """Say what happens when a picture or a text comes, and when the slider moves."""
    shown = [seen, *answer]
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    text.change(None, None, [answer.verdict], js=_OUTDATE, **quiet)
    # Also of a text that was pasted or filled in, of which `input` does not tell.
    text.change(
        *(acts.judge, [text, picture, cut, seen], shown),
        trigger_mode="always_last",
        concurrency_limit=4,
        **quiet,
    )
    # Asked to read it, the page passes over what is typed.
    for event, typed in ((picture.change, text), (again.click, gr.State(""))):
        event(None, [picture], [text, again], js=_LOCK, **quiet)
        reading = event(
            *(acts.read, [picture, cut, typed, seen], [text, *shown]),
            api_visibility="private",
            show_progress="minimal",
            show_progress_on=[text],
            concurrency_limit=4,
        )
        reading.failure(None, None, [text], js=_UNLOCK, **quiet)
    cut.change(
        *(acts.move, [seen, cut], [answer.scale, answer.trial]),
        trigger_mode="always_last",
        queue=False,
        **quiet,
    )


def _head(decision: DecisionBundle) -> str:
    said = "Drop a meme. Its text is read off the picture, and you may correct it."
    if decision.mode == "pilot":
        said += " This is a pilot: it shows how things work and should decide nothing."
    return f"<h1>{TITLE}</h1><p>{said}</p>"


def _add_examples(picture: gr.Image, paths: list[str]) -> None:
    # Gradio's own Examples ask for the picture at an address without the path of the mount.
    thumbnails = gr.Dataset(
        # So its copies of them are not deleted with what was uploaded.
        components=[picture],
        samples=[[path] for path in paths],
        type="index",
        label="Or take a generated one",
    )
    thumbnails.click(
        *(paths.__getitem__, [thumbnails], [picture]),
        api_visibility="private",
        show_progress="hidden",
    )


def _refuse_addresses(block: Any) -> None:
    """Let no client name an address for a file: Gradio would fetch whatever lies there."""
    moved = getattr(block, "async_move_resource_to_block_cache", None)
    if moved is None:
        return

    async def move(path: Any) -> Any:
        if str(path).lower().startswith(("http:", "https:")):
            raise ValueError("a file is uploaded here, and fetched from no address")
        return await moved(path)

    block.async_move_resource_to_block_cache = move


def _on_scale(payload: Any) -> float | None:
    """The end of the scale for what lies outside, and None for an empty field."""
    return min(1.0, max(0.0, payload)) if isinstance(payload, int | float) else None


def _path_of(payload: Any) -> str | None:
    return payload.path if payload else None


class _Acts:
    """What the page does; each returns what its outputs show."""

    def __init__(self, judge: Judge, decision: DecisionBundle) -> None:
        self._judge, self._policy = judge, decision.policy

    def read(
        self, path: str | None, cut: float | None, text: str, seen: Seen
    ) -> Iterator[tuple[Any, ...]]:
        """A picture came or went: read its text unless one was typed before, and judge both."""
        typed = text if seen.typed and text.strip() else None
        if path is None and typed is None:
            yield _free(""), *_said("", nothing_html())
            return
        # An answer to the picture before would stand beside this one for seconds.
        waiting = "Reading the picture …" if path else "Judging the text …"
        yield gr.skip(), gr.skip(), *_said("", nothing_html(waiting))[1:]
        found = self._answered(typed, path, cut)
        yield _free(found[0].text), *found

    def judge(self, text: str, path: str | None, cut: float | None, seen: Seen) -> Any:
        """The text was edited: judge it with the picture."""
        if text == seen.text:
            # It was not the user who changed it.
            return gr.skip(), gr.update(elem_classes=[]), *[gr.skip()] * 4
        if path is None and not text.strip():
            return _said(text, nothing_html())
        found, *html = self._answered(text, path, cut)
        return found._replace(typed=seen.typed), *html

    def _answered(self, text: str | None, path: str | None, cut: float | None) -> tuple[Any, ...]:
        try:
            answer = self._judge(text, None if path is None else _content(path))
        except Exception as error:
            return _said(text or "", _fault(error))
        if text is None:
            return self._shown(Seen(answer["text"], answer, typed=False), cut)
        return self._shown(Seen(text, answer), cut)

    def move(self, seen: Seen, cut: float | None) -> tuple[str, str]:
        """The slider was moved: compare labels, nothing is judged."""
        if seen.answer is None:
            return "", ""
        cut = rounded(seen.answer["threshold"]) if cut is None else cut
        return scale_html(seen.answer, self._policy, cut), trial_html(seen.answer, cut)

    def _shown(self, seen: Seen, cut: float | None) -> tuple[Any, ...]:
        assert seen.answer is not None
        verdict, bars = verdict_html(seen.answer, self._policy), bars_html(seen.answer)
        scale, trial = self.move(seen, cut)
        return seen, _new(verdict), scale, gr.update(visible=True), trial, bars


def _said(text: str, html: str) -> tuple[Any, ...]:
    """One line in the place of an answer."""
    return Seen(text, None), _new(html), "", gr.update(visible=False), "", ""


def _new(verdict: str) -> Any:
    return gr.update(value=verdict, elem_classes=[])


def _free(text: str) -> Any:
    """The field with a text, which may be edited."""
    return gr.update(value=text, interactive=True, placeholder="none")


def _content(path: str) -> bytes:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"the picture is gone: it is deleted {_KEPT // 60} minutes after it came; drop it again"
        )
    return Path(path).read_bytes()


def _fault(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return fault_html("too much is waiting to be judged; try again")
    if isinstance(error, ValueError | OSError):
        return fault_html(" ".join(str(error).split()))
    LOGGER.error("a meme was not judged", exc_info=error)
    return fault_html("this meme could not be judged; the log of the service says why")
