"""What runs on a node: reads requests from stdin, answers on stdout, ends when stdin ends.

One file, standard library, Python 3.6 or later; the host sends it over SSH (see orchestrator.node.BOOTSTRAP).
A request is one line of JSON with `id` and `op`. Its body follows if it has `payload`: that many bytes, or
with "chunks" a decimal line and as many bytes, again and again, until a 0 (or -1: the host gave up).
An answer is one line of JSON, then the bytes of its `parts`. Commands are argument lists: there is no shell.

To start fast on many nodes at once, what stands below "# Later" is compiled when first asked for, together
with lock.py, whose operations are named alike; and neither
json nor signal (regular expressions, enums) is imported where the modules in C that they wrap will do.
"""

import errno
import os
import select
import sys
import time

try:
    import _signal as signal  # what signal.py wraps in enums, and a third of the time to start
except ImportError:
    import signal

VERSION = 1
MARKER = ".nx8-root"
BLOCK = 1 << 18
#: Without a request for so long it ends: where the link was cut, sshd may not hear for hours that nobody is
#: there any more. The host uses none that rested for half of it.
IDLE_S = 30.0

LATER = []


def quick_json():
    """loads and dumps of the C module behind json; json's own where that has changed."""
    try:
        import _json

        class Strict:
            strict, memo = True, {}
            object_hook = object_pairs_hook = parse_constant = None
            parse_float, parse_int = float, int

        text = _json.encode_basestring_ascii
        scan = _json.make_scanner(Strict)
        encode = _json.make_encoder(None, repr, text, None, ": ", ", ", False, False, False)
        if (
            scan('{"a": [1, null]}', 0)[0] != {"a": [1, None]}
            or "".join(encode({"a": [1]}, 0)) != '{"a": [1]}'
        ):
            raise ValueError
        return lambda line: scan(line, 0)[0], lambda value: "".join(encode(value, 0))
    except Exception:
        import json

        return json.loads, json.dumps


loads, dumps = quick_json()


class OverTime(Exception):
    pass


class Refused(Exception):
    pass


class Inlet:
    """Bytes of stdin that came and were not used yet."""

    def __init__(self):
        self.buffer = bytearray()

    def fill(self):
        data = os.read(0, BLOCK)
        if not data:
            raise EOFError
        self.buffer += data

    def line(self):
        while True:
            end = self.buffer.find(b"\n")
            if end >= 0:
                line = bytes(self.buffer[:end])
                del self.buffer[: end + 1]
                return line
            self.fill()


class Body:
    """What follows a request line; `pull` gives what has come of it, iteration waits for the rest."""

    def __init__(self, inlet, payload):
        self.inlet = inlet
        self.chunked = payload == "chunks"
        self.left = 0 if self.chunked else int(payload or 0)
        self.done = not self.chunked and self.left == 0
        self.given_up = False

    def pull(self):
        buffer = self.inlet.buffer
        if self.chunked and self.left == 0 and not self.done:
            end = buffer.find(b"\n")
            if end < 0:
                return b""
            self.left = int(buffer[:end])
            del buffer[: end + 1]
            if self.left <= 0:
                self.given_up, self.left, self.done = self.left < 0, 0, True
                return b""
        data = bytes(buffer[: min(self.left, BLOCK)])
        del buffer[: len(data)]
        self.left -= len(data)
        if not self.chunked and self.left == 0:
            self.done = True
        return data

    def __iter__(self):
        while not self.done:
            data = self.pull()
            if data:
                yield data
            elif not self.done and not (self.chunked and b"\n" in self.inlet.buffer and self.left == 0):
                self.inlet.fill()


class Kept:
    """The first and the last bytes of a stream, `limit` in all, and the count of all."""

    def __init__(self, limit):
        self.half = max(1, (limit + 1) // 2)
        self.head, self.tail, self.count = bytearray(), bytearray(), 0

    def add(self, data):
        self.count += len(data)
        room = self.half - len(self.head)
        if room > 0:
            self.head += data[:room]
            data = data[room:]
        if data:
            self.tail += data
            if len(self.tail) > 2 * self.half + BLOCK:
                del self.tail[: -self.half]

    def parts(self):
        return bytes(self.head), bytes(self.tail[-self.half :])


def raw(text):
    """What the host means byte for byte, whatever this node's locale is."""
    return text.encode("utf-8", "surrogateescape")


def shown(path):
    return path.decode("utf-8", "surrogateescape")


def send(answer, parts=()):
    answer["parts"] = [len(part) for part in parts]
    write_all(1, dumps(answer).encode("ascii") + b"\n")
    for part in parts:
        write_all(1, part)


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[: 1 << 20]) :]


# Processes


def environment(changes):
    env = dict(os.environb)
    for name, value in (changes or {}).items():
        env[raw(name)] = raw(value)
    return env


def become(argv, env, cwd, fds, alarm):
    """In a fresh child: its own session, its streams, then the program. Never returns."""
    try:
        os.setsid()
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        for one in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGALRM):
            signal.signal(one, signal.SIG_DFL)
        if cwd:
            os.chdir(cwd)
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        os.write(alarm, str(error.errno or 0).encode())
    except BaseException:
        os.write(alarm, b"0")
    finally:
        os._exit(127)


def start(argv, env, cwd, fds):
    """The process id of a started program. Raises OSError when it cannot be executed."""
    heard, alarm = os.pipe()
    pid = os.fork()
    if pid == 0:
        become(argv, env, cwd, fds, alarm)
    os.close(alarm)
    failure = os.read(heard, 16)
    os.close(heard)
    if failure:
        os.waitpid(pid, 0)
        number = int(failure)
        raise OSError(number, os.strerror(number) if number else "cannot be executed", shown(argv[0]))
    return pid


def kill_group(pid, number):
    try:
        os.killpg(pid, number)
    except OSError:
        pass


class Run:
    """One program, fed and heard at the same time, until it has ended and its streams are drained."""

    def __init__(self, request, body):
        self.request, self.body = request, body
        self.outputs = {}
        self.pending = b""
        self.status = None
        self.timed_out = False
        self.stopped_reading = False

    def go(self):
        request = self.request
        argv = [raw(word) for word in request["argv"]]
        in_read, self.stdin = os.pipe()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        self.wake, wake_write = os.pipe()
        for fd in (self.stdin, self.wake, wake_write):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        before = signal.set_wakeup_fd(wake_write)
        streams = [out_read, err_read]
        try:
            cwd = raw(request["cwd"]) if request.get("cwd") else None
            self.pid = start(argv, environment(request.get("env")), cwd, (in_read, out_write, err_write))
        except OSError as error:
            for fd in (in_read, out_write, err_write, out_read, err_read, self.stdin):
                os.close(fd)
            for _ in self.body:
                pass
            return {"started": False, "errno": error.errno, "text": error.strerror}, ()
        else:
            for fd in (in_read, out_write, err_write):
                os.close(fd)
            self.kept = {fd: Kept(int(request["keep"])) for fd in streams}
            self.outputs = dict(self.kept)
            try:
                self.loop()
            except EOFError:
                self.gone()
                raise
        finally:
            signal.set_wakeup_fd(before)
            os.close(self.wake)
            os.close(wake_write)
        return self.answer(streams)

    def answer(self, streams):
        if os.WIFSIGNALED(self.status):
            rc = -os.WTERMSIG(self.status)
        else:
            rc = os.WEXITSTATUS(self.status)
        kept = [self.kept[fd] for fd in streams]
        parts = [part for one in kept for part in one.parts()]
        answer = {"started": True, "rc": rc, "timed_out": self.timed_out, "given_up": self.body.given_up}
        answer["counts"] = [one.count for one in kept]
        return answer, parts

    def loop(self):
        limit, beat = float(self.request["timeout_s"]), float(self.request.get("beat_s") or 3.0)
        now = time.monotonic()
        deadline, next_beat, killed, drained = now + limit, now + beat, None, None
        while self.status is None or self.outputs or not self.body.done:
            now = time.monotonic()
            if now >= next_beat:
                send({"id": self.request["id"], "beat": True})
                next_beat = now + beat
            if now >= deadline and self.status is None:
                self.timed_out = True
                kill_group(self.pid, signal.SIGKILL if killed else signal.SIGTERM)
                killed, deadline = True, now + 3.0
            if self.body.given_up and killed is None and self.status is None:
                kill_group(self.pid, signal.SIGTERM)
                killed, deadline = True, now + 3.0
            if self.status is not None and self.outputs:
                # The program has ended; who still holds its streams is a leftover of it.
                if drained is None:
                    drained = now + 1.0
                elif now >= drained:
                    kill_group(self.pid, signal.SIGKILL)
                    for fd in list(self.outputs):
                        self.close_output(fd)
                    continue
            ends = [next_beat] + ([deadline] if self.status is None else []) + ([drained] if drained else [])
            self.turn(max(0.0, min(ends) - now))
        kill_group(self.pid, signal.SIGKILL)

    def turn(self, wait_s):
        """Waits for whatever can move next, and moves it."""
        self.refill()
        if self.body.done and self.status is not None and not self.outputs:
            return
        poll = select.poll()
        poll.register(self.wake, select.POLLIN)
        if len(self.body.inlet.buffer) < 4 * BLOCK:
            poll.register(0, select.POLLIN)
        else:
            poll.register(0, 0)
        if self.stdin is not None and self.pending:
            poll.register(self.stdin, select.POLLOUT)
        for fd in self.outputs:
            poll.register(fd, select.POLLIN)
        for fd, event in poll.poll(wait_s * 1000 + 1):
            if fd == 0:
                if not event & select.POLLIN and event & (select.POLLHUP | select.POLLERR):
                    raise EOFError
                if event & select.POLLIN and len(self.body.inlet.buffer) < 4 * BLOCK:
                    self.body.inlet.fill()
            elif fd == self.wake:
                os.read(self.wake, 512)
            elif fd == self.stdin:
                self.feed()
            elif fd in self.outputs:
                data = os.read(fd, BLOCK)
                if data:
                    self.outputs[fd].add(data)
                    if self.request.get("live"):
                        send({"id": self.request["id"], "live": True}, (data,))
                else:
                    self.close_output(fd)
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status

    def refill(self):
        """Takes more of the body, and closes the program's stdin after the last of it."""
        if self.status is not None and self.stdin is not None:
            self.end_stdin(early=not self.body.done)
        while not self.pending and not self.body.done:
            data = self.body.pull()
            if self.stdin is not None:
                self.pending = data
            if not data and not (
                self.body.chunked and b"\n" in self.body.inlet.buffer and not self.body.left
            ):
                break
        if self.body.done and not self.pending and self.stdin is not None:
            self.end_stdin(early=False)

    def feed(self):
        try:
            self.pending = self.pending[os.write(self.stdin, self.pending) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.end_stdin(early=True)

    def end_stdin(self, early):
        os.close(self.stdin)
        self.stdin, self.pending = None, b""
        if early and self.body.chunked and not self.body.done and not self.stopped_reading:
            self.stopped_reading = True
            send({"id": self.request["id"], "stop": True})

    def close_output(self, fd):
        os.close(fd)
        del self.outputs[fd]

    def gone(self):
        """The host is gone: what it asked for ends with it."""
        kill_group(self.pid, signal.SIGTERM)
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                break
            select.select([self.wake], [], [], 0.1)
        kill_group(self.pid, signal.SIGKILL)


def do_run(request, body):
    return Run(request, body).go()


# Files


def open_file(path):
    """A plain file for reading, no link followed at its end: containers write where we read."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    info = os.fstat(fd)
    if info.st_mode & 0o170000 != 0o100000:
        os.close(fd)
        raise Refused("%s is no plain file" % shown(path))
    return fd, info


def read_some(fd, offset, limit):
    pieces = []
    while limit > 0:
        data = os.pread(fd, min(limit, BLOCK), offset)
        if not data:
            break
        pieces.append(data)
        offset += len(data)
        limit -= len(data)
    return b"".join(pieces)


def do_read(request, _body):
    found, parts = [], []
    for one in request["files"]:
        try:
            fd, info = open_file(raw(one["path"]))
        except OSError as error:
            found.append(
                {"missing": error.errno == errno.ENOENT, "errno": error.errno, "text": error.strerror}
            )
            parts.append(b"")
            continue
        try:
            data = read_some(fd, int(one["offset"]), int(one["limit"]))
            size = max(info.st_size, int(one["offset"]) + len(data) if data else 0)
        finally:
            os.close(fd)
        found.append({"size": size, "inode": info.st_ino, "mtime": info.st_mtime})
        parts.append(data)
    return {"files": found}, parts


def found(name):
    """The function that does an operation, of this part or the later one."""
    while name not in globals() and LATER:
        exec(compile(LATER.pop(), "nx8-agent-later", "exec"), globals())
    if name not in globals():
        raise Refused("this agent knows no %r" % name[3:])
    return globals()[name]


def over_time(*_):
    raise OverTime


def answer_to(request, body):
    """The answer's fields and parts; whatever goes wrong becomes an answer too."""
    try:
        work = found("do_" + request["op"])
        if request["op"] == "run":
            return work(request, body)
        signal.signal(signal.SIGALRM, over_time)
        signal.setitimer(signal.ITIMER_REAL, float(request["timeout_s"]))
        try:
            return work(request, body)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except OverTime:
        failure = {"error": "over_time", "text": "not done after %s s" % request["timeout_s"]}
    except Refused as error:
        failure = {"error": "refused", "text": str(error)}
    except OSError as error:
        text = error.strerror or str(error)
        name = error.filename
        name = shown(name) if isinstance(name, bytes) else name
        failure = {"error": "os", "errno": error.errno, "text": "%s: %s" % (name, text) if name else text}
    except EOFError:
        raise
    except Exception as error:
        failure = {"error": "bug", "text": "%s: %s" % (type(error).__name__, error)}
    for _ in body:
        pass
    return failure, ()


def main(later=b""):
    LATER.append(later)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    inlet = Inlet()
    try:
        write_all(1, b"\nnx8-agent %d\n" % VERSION)
        while True:
            if not inlet.buffer and not select.select([0], [], [], IDLE_S)[0]:
                return
            request = loads(inlet.line().decode("ascii"))
            answer, parts = answer_to(request, Body(inlet, request.get("payload")))
            answer["id"] = request["id"]
            send(answer, parts)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


# Later


def do_spawn(request, body):
    """Detached: a session of its own, adopted by init, output to files; outlives this agent."""
    for _ in body:
        pass
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    fds = [os.open("/dev/null", os.O_RDONLY)]
    fds += [os.open(raw(request[name]), flags, 0o600) for name in ("stdout", "stderr")]
    heard, told = os.pipe()
    middle = os.fork()
    if middle == 0:
        try:
            cwd = raw(request["cwd"]) if request.get("cwd") else None
            argv = [raw(word) for word in request["argv"]]
            pid = start(argv, environment(request.get("env")), cwd, fds)
            os.write(told, dumps({"pid": pid, "start": start_time(pid)}).encode())
        except OSError as error:
            os.write(told, dumps({"errno": error.errno, "text": error.strerror}).encode())
        finally:
            os._exit(0)
    for fd in (*fds, told):
        os.close(fd)
    text = b""
    while True:
        data = os.read(heard, 4096)
        if not data:
            break
        text += data
    os.close(heard)
    os.waitpid(middle, 0)
    answer = loads(text.decode())
    if "errno" in answer:
        raise OSError(answer["errno"], answer["text"], request["argv"][0])
    answer["boot_id"] = boot_id()
    return answer, ()


def start_time(pid):
    """Clock ticks after boot at which a process began; None when there is none. Zombies count as none."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def do_signal(request, _body):
    """Only to the very process that was started: its start time and this boot must be the same."""
    pid, number = int(request["pid"]), int(request["signal"])
    same = start_time(pid) == int(request["start"]) and request.get("boot_id") in (None, boot_id())
    if not same or pid <= 1:
        return {"alive": False}, ()
    try:
        if request.get("group"):
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        return {"alive": False}, ()
    return {"alive": True}, ()


def sync_folder(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def do_write(request, body):
    """Beside, synced, then renamed: a reader sees the old file or the whole new one."""
    import hashlib

    path = raw(request["path"])
    beside = b"%s.%d.part" % (path, os.getpid())
    digest, count = hashlib.sha256(), 0
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        try:
            for data in body:
                write_all(fd, data)
                digest.update(data)
                count += len(data)
            os.fchmod(fd, int(request["mode"]))
            os.fsync(fd)
        finally:
            os.close(fd)
        if body.given_up:
            raise Refused("the host gave up in the middle of %s" % request["path"])
        os.rename(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    sync_folder(os.path.dirname(path) or b"/")
    return {"size": count, "sha256": digest.hexdigest()}, ()


def do_append(request, body):
    """Goes on where a broken transfer ended: the file is cut to `offset` first."""
    path, offset = raw(request["path"]), int(request["offset"])
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, int(request["mode"]))
    try:
        if os.fstat(fd).st_size < offset:
            raise Refused("%s is shorter than %d bytes" % (request["path"], offset))
        os.ftruncate(fd, offset)
        os.lseek(fd, offset, os.SEEK_SET)
        for data in body:
            write_all(fd, data)
        if request.get("sync", True):
            os.fsync(fd)
        return {"size": os.fstat(fd).st_size, "given_up": body.given_up}, ()
    finally:
        os.close(fd)


def do_make_dirs(request, _body):
    """Folders of our own; `marker` makes each a root below which remove_tree may act."""
    made = []
    for text in request["paths"]:
        path = raw(text)
        missing = []
        while not os.path.lexists(path):
            missing.append(path)
            path = os.path.dirname(path)
        for one in reversed(missing):
            try:
                os.mkdir(one, int(request["mode"]))
            except FileExistsError:
                pass
        info = os.lstat(raw(text))
        if info.st_mode & 0o170000 != 0o040000:
            raise Refused("%s is there and is no folder" % text)
        if info.st_uid != os.geteuid():
            raise Refused("%s belongs to user %d, not to us (%d)" % (text, info.st_uid, os.geteuid()))
        if request.get("marker"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
            os.close(os.open(os.path.join(raw(text), raw(MARKER)), flags, 0o600))
        made.append(bool(missing))
    return {"made": made}, ()


def remove(path):
    """What could not be removed, as text; empty when all is gone."""
    import shutil

    left = []
    shutil.rmtree(path, onerror=lambda _call, name, info: left.append("%s: %s" % (shown(name), info[1])))
    return left


def do_remove_tree(request, _body):
    """Only strictly below `root`, which must carry our marker; a link on the way there is refused."""
    root, path = raw(request["root"]), raw(request["path"])
    for one in (root, path):
        if not one.startswith(b"/") or os.path.normpath(one) != one or os.path.realpath(one) != one:
            raise Refused("%s is not a plain absolute path" % shown(one))
    if not path.startswith(root.rstrip(b"/") + b"/"):
        raise Refused("%s is not below %s" % (shown(path), shown(root)))
    marker = os.path.join(root, raw(MARKER))
    if not os.path.isfile(marker) or os.path.islink(marker) or os.stat(root).st_uid != os.geteuid():
        raise Refused("%s carries no %s of ours" % (shown(root), MARKER))
    if path == marker:
        raise Refused("%s is the marker itself" % shown(path))
    if not os.path.lexists(path):
        return {"removed": False, "left": []}, ()
    if not os.path.isdir(path):
        os.unlink(path)
        return {"removed": True, "left": []}, ()
    left = remove(path)
    return {"removed": not left, "left": left[:20]}, ()


def describe(path):
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return {"exists": False}
    except OSError as error:
        return {"exists": None, "errno": error.errno, "text": error.strerror}
    kinds = {0o100000: "file", 0o040000: "folder", 0o120000: "link", 0o140000: "socket"}
    kind = kinds.get(info.st_mode & 0o170000, "device")
    return {
        "exists": True,
        "kind": kind,
        "size": info.st_size,
        "mode": info.st_mode & 0o7777,
        "uid": info.st_uid,
        "mtime": info.st_mtime,
        "inode": info.st_ino,
    }


def do_stat(request, _body):
    return {"files": [describe(raw(path)) for path in request["paths"]]}, ()


def do_list(request, _body):
    """Every plain file below a folder, by its path in it; links are not followed."""
    top, found = raw(request["path"]), []
    for folder, folders, files in os.walk(top):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(folder, name)
            info = os.lstat(path)
            if info.st_mode & 0o170000 == 0o100000:
                found.append([shown(os.path.relpath(path, top)), info.st_size])
        if len(found) > int(request["limit"]):
            raise Refused("%s holds more than %d files" % (request["path"], int(request["limit"])))
    return {"files": found}, ()


def do_folders(request, _body):
    """Names of the folders in a folder; links are none."""
    try:
        with os.scandir(raw(request["path"])) as found:
            names = [one.name for one in found if one.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        names = []
    return {"folders": [shown(name) for name in sorted(names)]}, ()


def do_sha256(request, _body):
    import hashlib

    found = []
    for text in request["paths"]:
        try:
            fd, info = open_file(raw(text))
        except OSError as error:
            found.append(
                {"missing": error.errno == errno.ENOENT, "errno": error.errno, "text": error.strerror}
            )
            continue
        digest, size = hashlib.sha256(), 0
        try:
            while True:
                data = os.read(fd, 1 << 20)
                if not data:
                    break
                digest.update(data)
                size += len(data)
        finally:
            os.close(fd)
        found.append({"sha256": digest.hexdigest(), "size": size})
    return {"files": found}, ()


def do_disk(request, _body):
    """Of the file system that holds `path`, or will: the nearest folder above that is there."""
    path = raw(request["path"])
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    disk = os.statvfs(path)
    return {
        "total_bytes": disk.f_blocks * disk.f_frsize,
        "available_bytes": disk.f_bavail * disk.f_frsize,
        "free_inodes": disk.f_favail,
        "at": shown(path),
    }, ()


def do_port(request, _body):
    """A TCP port nobody listens on at this moment, of those given or any."""
    import socket

    for port in request.get("ports") or [0]:
        family = socket.AF_INET6 if ":" in request["address"] else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((request["address"], int(port)))
                probe.listen(1)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            return {"port": probe.getsockname()[1]}, ()
    return {"port": None}, ()


# Facts


def do_texts(request, _body):
    """Path and text of every file that a pattern fits and that can be read, up to `limit` bytes of each."""
    import glob

    found = []
    for pattern in request["patterns"]:
        for path in sorted(glob.glob(raw(pattern))):
            try:
                fd, _ = open_file(path)
            except (OSError, Refused):
                continue
            try:
                data = read_some(fd, 0, int(request["limit"]))
                found.append([shown(path), data.decode("utf-8", "replace")])
            except OSError:
                continue  # the speed of a network device that is down cannot be read
            finally:
                os.close(fd)
    return {"texts": found}, ()


def text_of(path):
    try:
        with open(path, "rb") as file:
            return file.read(1 << 16).decode("utf-8", "replace")
    except OSError:
        return ""


def boot_id():
    return text_of("/proc/sys/kernel/random/boot_id").strip() or None


def after(text, key, separator):
    for line in text.splitlines():
        name, found, value = line.partition(separator)
        if found and name.strip() == key:
            return value.strip().strip('"')
    return None


def do_hello(_request, _body):
    import pwd

    name = os.uname()
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = None
    memory = (after(text_of("/proc/meminfo"), "MemTotal", ":") or "").split()
    return {
        "version": VERSION,
        "python": "%d.%d.%d" % sys.version_info[:3],
        "hostname": name.nodename,
        "kernel": name.release,
        "machine": name.machine,
        "os": after(text_of("/etc/os-release"), "PRETTY_NAME", "="),
        "user": user,
        "uid": os.geteuid(),
        "gid": os.getegid(),
        "home": os.environ.get("HOME"),
        "boot_id": boot_id(),
        "wall_s": time.time(),
        "monotonic_s": time.monotonic(),
        "memory_bytes": int(memory[0]) * 1024 if memory else None,
        "cpus": os.cpu_count(),
        "cpus_allowed": len(os.sched_getaffinity(0)),
    }, ()


if __name__ == "__main__":
    main()
