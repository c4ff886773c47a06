"""What may stand inside an HTML page: JSON and scripts that no text within them can end."""

import base64
import hashlib
import json
import re
from importlib.resources import files
from typing import Any

# The last statement of the bundle, which makes it a module: `export{Go as ITable, …}`.
_EXPORTS = re.compile(r"export\s*\{([^{}]*)\}\s*;?")
_ESCAPED = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029\x7f"})
_SURROGATE = re.compile("[\ud800-\udfff]")


def safe_json(content: Any) -> str:
    """JSON in which HTML's signs, line separators and lone surrogates are escapes.

    So no text in it ends the element it stands in, and UTF-8 can hold all of it.
    Raises ValueError for a float that is not finite.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text.translate(_ESCAPED))


def safe_script(script: str) -> str:
    """A script that may stand between its tags: `</script` and `<!--` would end or hide it."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def script_hash(script: str) -> str:
    """The script's name in a content security policy: `sha256-…`."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def datatables() -> str:
    """DataTables and jQuery out of itables, put where a script of the page finds them.

    Raises ValueError for a version of itables whose bundle is of another form.
    """
    bundle = of_itables("dt_bundle.js")
    for exported in reversed(list(_EXPORTS.finditer(bundle))):
        pairs = [pair.split(" as ") for pair in exported[1].split(",") if " as " in pair]
        name = {public: inner for inner, public in pairs}.get("jQuery")
        if name is not None:
            return f"{bundle[: exported.start()]}window.jQuery={name};{bundle[exported.end() :]}"
    raise ValueError("itables has no bundle of DataTables as expected; install itables 2.9")


def of_itables(name: str) -> str:
    """A file of the browser's part of itables."""
    return (files("itables") / "html" / name).read_text(encoding="utf-8")
