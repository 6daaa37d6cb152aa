"""Texts that try to become a script, and values with them in every text field."""

from __future__ import annotations

import dataclasses
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

#: X is what would run.
_SHAPES = (
    "<script>X</script>",
    "</script><script>X</script>",
    "</ScRiPt ><sCrIpT>X</sCrIpT>",
    '"><script>X</script>',
    "'><script>X</script>",
    "--><script>X</script><!--",
    "]]><script>X</script>",
    "</title><script>X</script>",
    "</style><script>X</script>",
    "</textarea><script>X</script>",
    "</pre></details><script>X</script>",
    "<script/x>X</script/x>",
    "<script\n>X</script\n>",
    "<scr<script>ipt>X</scr</script>ipt>",
    "<script src=data:text/javascript,X></script>",
    "<img src=x onerror=X>",
    '"><img src=x onerror="X">',
    "<img/src/onerror=X>",
    "<img src=`x`onerror=X>",
    "<svg onload=X>",
    "<svg><script>X</script></svg>",
    "<svg><animate onbegin=X attributeName=x dur=1s>",
    "</svg><svg/onload=X>",
    "</text></svg><script>X</script>",
    "<svg><a xlink:href=javascript:X><text y=9>a</text></a></svg>",
    "<math><mtext></mtext><script>X</script></math>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--><img src=1 onerror=X>'>",
    "<body onload=X>",
    "<iframe srcdoc='<script>parent.X</script>'></iframe>",
    "<iframe src=javascript:X></iframe>",
    "<object data=javascript:X></object>",
    "<embed src=javascript:X>",
    "<a href=javascript:X>a</a>",
    "<a href='&#106;avascript:X'>a</a>",
    "<form action=javascript:X><button>a</button></form>",
    "<button autofocus onfocus=X>a</button>",
    "<input autofocus onfocus=X>",
    "<details open ontoggle=X><summary>a</summary></details>",
    "<video><source onerror=X></video>",
    "<audio src=x onerror=X>",
    "<marquee onstart=X>a</marquee>",
    "<style>@import 'data:text/css,*{}';</style><p onclick=X>",
    "<link rel=stylesheet href=http://127.0.0.1:9/?X>",
    "<base href=http://127.0.0.1:9/?X>",
    "<meta http-equiv=refresh content='0;url=javascript:X'>",
    '" onmouseover=X autofocus onfocus=X x="',
    "' onmouseover=X autofocus onfocus=X x='",
    "` onmouseover=X x=`",
    "javascript:X",
    "&lt;script&gt;X&lt;/script&gt;",
    "&#60;script&#62;X&#60;/script&#62;",
    "\\u003cscript\\u003eX\\u003c/script\\u003e",
    "\\x3cscript\\x3eX\\x3c/script\\x3e",
    "';X;//",
    '";X;//',
    "\\';X;//",
    "\u2028X\u2029",
    "${X}",
    "{{ X }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}{% raw %}X",
    "{% for x in (1,) %}<script>X</script>{% endfor %}",
    "#{X}",
    "<%= X %>",
    "[a](javascript:X)",
    "![a](x'onerror='X)",
    "\ufeff<script>X</script>",
    "\x00<script>X</script>",
)
_CALLS = ("alert(1)", "window.ran=1", "top['al'+'ert'](2)")
PAYLOADS = tuple(islice(dict.fromkeys(shape.replace("X", call) for call in _CALLS for shape in _SHAPES), 200))

#: What decides, and is no text: names of our own columns, parts and kinds.
DECIDES = frozenset(
    {"schema", "verdict", "columns", "direction", "rows", "parts", "software", "bold", "repeat_optimisations"}
    | {"kind", "metric", "x", "key", "column", "sha256", "charts", "missing", "look"}
)


def poisoned(value: Any, texts: Iterator[str], name: str = "") -> Any:
    """`value` with the next of `texts` in place of every text that says something."""
    if isinstance(value, str):
        return value if name in DECIDES else next(texts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        made = {
            field.name: poisoned(getattr(value, field.name), texts, field.name)
            for field in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **made)
    if isinstance(value, dict):
        return {key: poisoned(inner, texts, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple) and name not in DECIDES:
        return type(value)(poisoned(inner, texts, name) for inner in value)
    return value


def texts(per_field: int, first: int) -> Iterator[str]:
    """Payloads from number `first` on, so many in one text."""
    return cycle(["".join(PAYLOADS[(first + n) % len(PAYLOADS)] for n in range(per_field))])
