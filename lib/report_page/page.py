"""Step 7's report, `report_<m>.html`: one file that opens from disk and asks no network.

Its scripts are those beside this file and DataTables, which the package itables ships. The page's
own policy lets run nothing but these, by their hashes, and load nothing from anywhere, so that a
meme whose text or id is a script remains a text.
"""

import html
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from lib.artifacts import write_text
from lib.config import Settings
from lib.decisions.report import described
from lib.report_page.contents import page_data
from lib.report_page.embedding import datatables, of_itables, safe_json, safe_script, script_hash
from lib.report_page.finished_run import read_run
from lib.report_page.rows import no_rows, page_rows
from lib.report_page.sections import sections
from lib.report_page.thumbnails import PICTURES, suspects_thumbnails, thumbnails

# All but the pictures; the memes have what the rest leaves of it.
BYTES = 1_950_000
# One script in this order.
SCRIPTS = ("numbers.js", "memes.js", "page.js")


def write_page(settings: Settings, most_pictures: int = PICTURES) -> Path:
    """Write `report_<m>.html` of Step 7 from what Steps 6 and 7 left on disk, and return its path.

    The first `most_pictures` memes of the page have their picture, and so have the first suspects
    of train. Tables that are not there yet,
    such as robustness, are named with the command that writes them.
    Raises FileNotFoundError naming the step for missing predictions, decision or error table, and
    ValueError where these are not of each other.
    """
    run = read_run(settings)
    data, parts = page_data(run), sections(run)
    title = f"Decision report, {settings.mode} run, {described(data['reported'])}"
    room = BYTES - len(page(title, data | {"rows": no_rows()}, parts).encode())
    rows = page_rows(settings, run.report, run.decision, room)
    data["rows"] = rows.content
    data["pictures"] = thumbnails(settings, rows.places, rows.content["id"], most_pictures)
    data["suspects"] |= {"pictures": suspects_thumbnails(settings, data["suspects"]["id"])}
    path = settings.artifact(7, "report.html")
    write_text(path, page(title, data, parts))
    return path


def page(title: str, data: Mapping[str, Any], parts: Mapping[str, str]) -> str:
    """The page as text: `data` for its script, `parts` the HTML of its sections by name."""
    scripts = [safe_script(datatables()), safe_script("".join(map(_own, SCRIPTS)))]
    return Template(_own("page.html")).substitute(
        parts,
        title=html.escape(title),
        script_hashes=" ".join(f"'{script_hash(script)}'" for script in scripts),
        style=of_itables("dt_bundle.css") + _own("page.css"),
        data=safe_json(data),
        datatables=scripts[0],
        script=scripts[1],
    )


def _own(name: str) -> str:
    return (files("lib.report_page") / name).read_text(encoding="utf-8")
