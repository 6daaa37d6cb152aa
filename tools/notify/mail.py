#!/usr/bin/env python3
"""A nightly's notice → mail, by the sendmail of this machine.

In a suite:   notify: [python3, tools/notify/mail.py, ops@example.org]
NX8_SENDMAIL names another sendmail than /usr/sbin/sendmail.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from email.message import EmailMessage


def main() -> None:
    to = sys.argv[1:]
    if not to:
        sys.exit("usage: mail.py ADDRESS… < notice.json")
    notice = json.load(sys.stdin)
    mail = EmailMessage()
    mail["Subject"] = " ".join(notice["title"].split())[:200]
    mail["To"] = ", ".join(to)
    mail.set_content(f"{notice['text']}\n\nreport: {notice['report']}\nexit: {notice['exit_code']}\n")
    program = os.environ.get("NX8_SENDMAIL", "/usr/sbin/sendmail")
    try:
        subprocess.run((program, "-t", "-i"), input=mail.as_bytes(), check=True, timeout=50)
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"{program}: {error}")


if __name__ == "__main__":
    main()
