#!/usr/bin/env python3
"""A nightly's notice → a chat's webhook: feishu, dingtalk, wecom, slack, or any that takes our JSON.

In a suite:   notify: [python3, tools/notify/webhook.py, feishu]
The address is a secret, so it is never an argument: the variable NX8_WEBHOOK_URL, or the first line of the
file that NX8_WEBHOOK_FILE names (readable by its owner alone).
"""

from __future__ import annotations

import json
import os
import stat
import sys
import urllib.request
from pathlib import Path

LIMIT_S = 20
#: Chats cut or refuse long messages.
MOST = 3500

STYLES = {
    "feishu": lambda title, text: {"msg_type": "text", "content": {"text": f"{title}\n{text}"}},
    "dingtalk": lambda title, text: {"msgtype": "text", "text": {"content": f"{title}\n{text}"}},
    "wecom": lambda title, text: {"msgtype": "text", "text": {"content": f"{title}\n{text}"}},
    "slack": lambda title, text: {"text": f"*{title}*\n```{text}```"},
}


def address() -> str:
    url = os.environ.get("NX8_WEBHOOK_URL")
    if url:
        return url
    named = os.environ.get("NX8_WEBHOOK_FILE")
    if not named:
        sys.exit("set NX8_WEBHOOK_URL, or NX8_WEBHOOK_FILE to a file that holds it")
    path = Path(named)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        sys.exit(f"{path}: others may read it; chmod 600 {path}")
    return path.read_text("utf-8").splitlines()[0].strip()


def main() -> None:
    style = sys.argv[1] if len(sys.argv) == 2 else ""
    if style not in (*STYLES, "json"):
        sys.exit(f"usage: webhook.py {'|'.join(STYLES)}|json < notice.json")
    notice = json.load(sys.stdin)
    body = notice if style == "json" else STYLES[style](notice["title"], notice["text"][:MOST])
    url = address()
    if not url.startswith(("https://", "http://")):
        sys.exit("the address is neither http nor https")
    asked = urllib.request.Request(  # noqa: S310 - its scheme was looked at
        url, data=json.dumps(body, ensure_ascii=False).encode(), headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=LIMIT_S) as answer:  # noqa: S310
            said = answer.read(4096)
    except OSError as error:
        sys.exit(f"the webhook did not take it: {getattr(error, 'reason', error)}")
    # Feishu, DingTalk and WeCom answer 200 and say inside whether they took it.
    try:
        told = json.loads(said)
        code = told.get("code", told.get("errcode", 0)) if isinstance(told, dict) else 0
    except ValueError:
        code = 0
    if code:
        sys.exit(f"the webhook refused it: code {code}")


if __name__ == "__main__":
    main()
