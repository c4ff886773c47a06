"""An answer of `MemeClassifier.predict` as HTML: in words, on a scale, in bars."""

from collections.abc import Mapping
from html import escape
from typing import Any

from lib.decisions.policy import Policy

Answer = Mapping[str, Any]

LABELS = ("not hate", "hate or abuse")
_HEADINGS = {"allow": "Allow", "review": "A person should look", "block": "Block"}


def nothing_html(said: str = "The decision will stand here.") -> str:
    """What stands where there is no answer yet."""
    return f'<p class="meme-empty" role="status">{escape(said)}</p>'


def fault_html(fault: str) -> str:
    """The one line that says why there is no answer."""
    return f'<p class="meme-fault" role="alert">{escape(fault[:1].upper() + fault[1:])}</p>'


def verdict_html(answer: Answer, policy: Policy) -> str:
    """The decision in words, with the probability and where the text is from."""
    decision = answer["decision"]
    origin = "read off the picture" if answer["text_from"] == "picture" else "as typed"
    return (
        f'<section class="meme-verdict {decision}" aria-live="polite">'
        f"<h2>{_HEADINGS[decision]}</h2>"
        f"<p>{_reason(decision, policy)}</p>"
        f'<p><b class="meme-prob">{_percent(answer["prob_hate"])}</b> calibrated probability of '
        f"hate. At the threshold of {answer['threshold']:.3f} the label is "
        f'<b>{LABELS[answer["label"]]}</b>. <span class="meme-soft">Text {origin}.</span></p>'
        "</section>"
    )


def scale_html(answer: Answer, policy: Policy, cut: float) -> str:
    """The probability on a scale from 0 to 1, with the threshold, the policy's cuts and `cut`."""
    low, high = policy.ends
    low, high = max(0.0, low), min(1.0, high)
    prob, threshold = answer["prob_hate"], answer["threshold"]
    zones = [
        ("allow", 0.0, low, "allow"),
        ("review", low, high, "a person"),
        ("block", high, 1.0, "block"),
    ]
    drawn = "".join(
        f'<span class="zone {name}" style="left:{100 * start:.2f}%;'
        f'width:{100 * (end - start):.2f}%">'
        f"{word if end - start > 0.16 else ''}</span>"
        for name, start, end, word in zones
        if end > start
    )
    places = {"this meme": ("prob", prob), "threshold": ("threshold", threshold)}
    if cut != rounded(threshold):
        places["tried"] = ("tried", cut)
    marks = "".join(
        f'<span class="mark {kind}" style="left:{100 * place:.2f}%"></span>'
        for kind, place in places.values()
    )
    digits = _digits(prob, policy)
    numbers = [f"{name} {place:.{digits}f}" for name, (_, place) in places.items()]
    cuts = _cuts(policy, digits)
    said = f"Scale from 0 to 1: {', '.join(numbers)}; policy: {cuts}"
    legend = "".join(
        f'<span><i class="key {kind}"></i>{number}</span>'
        for number, (kind, _) in zip(numbers, places.values(), strict=True)
    )
    legend += f'<span class="meme-soft">policy: {cuts}</span>'
    return (
        f'<div class="meme-scale"><div class="track" role="img" aria-label="{escape(said)}">'
        f'{drawn}{marks}</div><div class="ends" aria-hidden="true"><span>0</span><span>0.5</span>'
        f'<span>1</span></div><p class="legend">{legend}</p></div>'
    )


def trial_html(answer: Answer, cut: float) -> str:
    """The label at another threshold beside the one that holds."""
    threshold = answer["threshold"]
    label = int(answer["prob_hate"] >= (threshold if cut == rounded(threshold) else cut))
    same = "the same as" if label == answer["label"] else "other than"
    return (
        f'<p class="meme-trial" role="status">At {cut:.3f}: <b>{LABELS[label]}</b>, {same} at the '
        f"threshold in use. The policy's decision stays <b>{answer['decision']}</b>.</p>"
    )


def bars_html(answer: Answer) -> str:
    """Each expert's view, and the probability without the text and without the picture."""
    experts, without = answer["experts"], answer["rests_on"]
    fusion = answer["prob_hate"]
    views = [
        ("text expert", experts["text_expert"], "text-expert"),
        ("vision expert", experts["vision_expert"], "vision-expert"),
        ("fusion of both", fusion, "fusion"),
    ]
    rests = [
        ("text and picture", fusion, "fusion"),
        ("without the text", without["without_text"], "without"),
        ("without the picture", without["without_picture"], "without"),
    ]
    return (
        '<div class="meme-bars">'
        + _table("Each expert's view", views)
        + _table("What the probability rests on", rests)
        + "</div>"
    )


def _table(title: str, rows: list[tuple[str, float, str]]) -> str:
    body = "".join(
        f'<tr><th scope="row">{name}</th><td class="bar"><span class="{kind}" '
        f'style="width:{100 * prob:.1f}%"></span></td><td>{prob:.2f}</td></tr>'
        for name, prob, kind in rows
    )
    return f"<table><caption>{title}</caption><tbody>{body}</tbody></table>"


def rounded(threshold: float) -> float:
    """A threshold as the slider shows it; it stands there for the exact one."""
    return round(threshold, 3)


def _percent(prob: float) -> str:
    if prob < 0.001:
        return "below 0.1%"
    if prob >= 0.999:
        return "over 99.9%"
    return f"{100 * prob:.0f}%" if 0.01 <= prob < 0.99 else f"{100 * prob:.1f}%"


def _digits(prob: float, policy: Policy) -> int:
    """As many as tell a probability from the policy's cuts, at least those of the slider."""
    cuts = [cut for cut in (policy.allow, policy.block) if cut not in (None, prob)]
    return next(
        (n for n in range(3, 16) if all(f"{cut:.{n}f}" != f"{prob:.{n}f}" for cut in cuts)), 16
    )


def _cuts(policy: Policy, digits: int) -> str:
    low, high = policy.ends
    allow = "allow nothing" if policy.allow is None else f"allow below {low:.{digits}f}"
    block = "block nothing" if policy.block is None else f"block from {high:.{digits}f}"
    return f"{allow}, {block}"


def _reason(decision: str, policy: Policy) -> str:
    if decision == "allow":
        return "The probability is below the policy's cut for allowing."
    if decision == "block":
        return "The probability reaches the policy's cut for blocking."
    if policy.allow is None and policy.block is None:
        return "Nothing could be certified for this model, so every meme goes to a person."
    return "The policy neither allows nor blocks at this probability."
