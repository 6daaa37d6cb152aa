"""Runs a vendor's probe at an interval beside a job and keeps what it printed, word for word.

Standard library only, Python 3.6 or newer; sent to the node with each run. `python3 monitor.py CONFIG`, where
CONFIG is a JSON file: argv, interval_s, timeout_s, limit_s, output, lock. Each line of the output is one JSON
object: t_s (the node's monotonic clock when the probe was started), took_s, rc (null: over time or not
startable), out and err (text, bytes that are no UTF-8 escaped). It ends at SIGTERM, after one more
probe, when its starter's job folder or the node's lock is gone, or after limit_s, so that it cannot outlive a
run by much; the last line says why. A second one for the same output ends at once; <output>.pid says which
process the first one is.
"""

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time

MAX_OUTPUT = 256 * 1024


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        config = json.load(file)
    wake, wakened = os.pipe()
    os.set_blocking(wakened, False)
    signal.set_wakeup_fd(wakened)
    asked = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda signum, frame: asked.append(signum))
    output = os.open(config["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return 0
    introduce(config["output"] + ".pid")
    config["lock_id"] = identity(config.get("lock"))
    started_s = time.monotonic()
    samples = 0
    while True:
        began_s = time.monotonic()
        write(output, probe(config, began_s))
        samples += 1
        next_s = began_s + config["interval_s"]
        if not asked:
            select.select([wake], [], [], max(0.0, next_s - time.monotonic()))
        reason = why_to_end(config, asked, started_s)
        if reason:
            if asked:
                # A stretch of time that is shorter than the interval needs a sample on its other side too.
                write(output, probe(config, time.monotonic()))
                samples += 1
            write(output, {"t_s": time.monotonic(), "end": reason, "samples": samples})
            return 0


def why_to_end(config, asked, started_s):
    if asked:
        return "asked to"
    if time.monotonic() - started_s > config["limit_s"]:
        return "limit of {:g} s".format(config["limit_s"])
    if not os.path.isdir(os.path.dirname(config["output"])):
        return "its folder is gone"
    if identity(config.get("lock")) != config["lock_id"]:
        return "the node's lock is gone"
    return None


def identity(path):
    """What tells a folder from another one of that name; None where there is none."""
    try:
        return path and os.stat(path).st_ino
    except OSError:
        return None


def introduce(path):
    with open("/proc/self/stat", "rb") as file:
        start = int(file.read().rpartition(b")")[2].split()[19])
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot_id = file.read().strip()
    with open(path + ".new", "w") as file:
        json.dump({"pid": os.getpid(), "start": start, "boot_id": boot_id}, file)
    os.rename(path + ".new", path)


def probe(config, began_s):
    record = {"t_s": began_s, "rc": None, "out": "", "err": ""}
    try:
        # A session of its own: what a probe that hangs has started ends with it.
        probe = subprocess.Popen(
            config["argv"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            out, err = probe.communicate(timeout=config["timeout_s"])
            record.update(rc=probe.returncode, out=text(out), err=text(err))
        except subprocess.TimeoutExpired:
            record["err"] = "no answer within {:g} s".format(config["timeout_s"])
            os.killpg(probe.pid, signal.SIGKILL)
            probe.wait()
            probe.stdout.close()
            probe.stderr.close()
    except OSError as error:
        record["err"] = str(error)
    record["took_s"] = time.monotonic() - began_s
    return record


def text(raw):
    return raw[:MAX_OUTPUT].decode("utf-8", "backslashreplace")


def write(output, record):
    os.write(output, json.dumps(record).encode("utf-8") + b"\n")


if __name__ == "__main__":
    sys.exit(main())
