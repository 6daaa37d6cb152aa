"""What the agent's own questions do not answer about a node: who holds device files, which names resolve,
where we may write, which programs are there; and whether nodes reach each other.

One file, standard library, Python 3.6 or later. `python3 -I -S - REQUEST`, this file on standard input; the
answer is one line of JSON. Looks and changes nothing; `meet` listens on one port for as long as it takes.
"""

import glob
import json
import os
import pwd
import select
import socket
import sys
import threading
import time

MAX_HOLDERS = 32
#: A registry that answers at all does so within this time, in seconds.
CONNECT_S = 2.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def text_of(path):
    try:
        with open(path, "rb") as file:
            return file.read(1 << 16).decode("utf-8", "replace")
    except OSError:
        return ""


def holders(patterns):
    """Processes with one of these files open, and how many processes would not show us their files."""
    wanted = set()
    for pattern in patterns:
        wanted.update(glob.glob(pattern))
    found, hidden = [], 0
    if not wanted:
        return found, hidden
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        folder = "/proc/%s/fd" % name
        try:
            numbers = os.listdir(folder)
        except PermissionError:
            hidden += 1
            continue
        except OSError:
            continue
        files = set()
        for number in numbers:
            try:
                files.add(os.readlink("%s/%s" % (folder, number)))
            except OSError:
                continue
        held = sorted(files & wanted)
        if held and len(found) < MAX_HOLDERS:
            found.append(described(name, held))
    return found, hidden


def described(pid, held):
    try:
        uid = os.stat("/proc/%s" % pid).st_uid
        user = pwd.getpwuid(uid).pw_name
    except (OSError, KeyError):
        user = None
    since = None
    try:
        ticks = int(text_of("/proc/%s/stat" % pid).rpartition(")")[2].split()[19])
        since = float(text_of("/proc/uptime").split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except (ValueError, IndexError):
        pass
    command = text_of("/proc/%s/comm" % pid).strip()
    return {"pid": int(pid), "user": user, "command": command, "files": held, "age_s": since}


def resolved(names):
    """Name → its addresses, or why there are none."""
    found = {}
    for name in names:
        try:
            answers = socket.getaddrinfo(name, None, socket.AF_UNSPEC, socket.SOCK_STREAM)
            found[name] = {"addresses": sorted({one[4][0] for one in answers})}
        except (OSError, UnicodeError) as error:
            found[name] = {"addresses": [], "text": str(error)}
    return found


def own_addresses():
    """Every address that is this machine's: one can be bound to exactly if it is."""

    def ours(address):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((address, 0))
            except OSError:
                return False
        return True

    return ours


def writable(paths):
    """Whether we may write into a folder, or make it: of the nearest one above that is there."""
    found = {}
    for path in paths:
        at = path
        while not os.path.isdir(at) and at not in ("", "/"):
            at = os.path.dirname(at)
        found[path] = {"at": at, "ok": os.access(at, os.W_OK | os.X_OK)}
    return found


def programs(names):
    found = {}
    for name in names:
        places = [os.path.join(folder, name) for folder in PATH.split(":")]
        found[name] = next((place for place in places if os.access(place, os.X_OK)), None)
    return found


def daemon_limits(pid_files):
    """Name of a limit → soft limit, of the first daemon whose pid can be read: containers inherit them."""
    for path in pid_files:
        pid = text_of(path).strip()
        limits = {}
        for line in text_of("/proc/%s/limits" % pid).splitlines()[1:] if pid.isdigit() else ():
            words = line[26:].split()
            if words:
                limits[line[:26].strip()] = words[0]
        if limits:
            return limits
    return {}


def listening():
    """TCP ports somebody listens on."""
    ports = set()
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in text_of(path).splitlines()[1:]:
            words = line.split()
            if len(words) > 3 and words[3] == "0A":
                ports.add(int(words[1].rpartition(":")[2], 16))
    return sorted(ports)


def connecting(places):
    """Begins a TCP connection to each host:port; what it returns waits for them, CONNECT_S from now at most,
    and says by place why there is none, null where there is.
    """
    found = {}
    deadline = time.monotonic() + CONNECT_S

    def one(place):
        host, _, port = place.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
            found[place] = None
        except (OSError, UnicodeError, ValueError) as error:
            found[place] = str(error)

    # Looking up a name has no limit of its own.
    threads = [threading.Thread(target=one, args=(place,), daemon=True) for place in places]
    for thread in threads:
        thread.start()

    def waited():
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        late = "no answer within %g s" % CONNECT_S
        return {place: found.get(place, late) for place in places}

    return waited


def look(request):
    registries = connecting(request["registries"])
    held, hidden = holders(request["devices"])
    hostname = socket.gethostname()
    names = resolved([hostname] + request["names"])
    ours = own_addresses()
    return {
        "holders": held,
        "hidden": hidden,
        "hostname": hostname,
        "names": names,
        "own": [address for address in names[hostname]["addresses"] if ours(address)],
        "writable": writable(request["writable"]),
        "programs": programs(request["programs"]),
        "limits": daemon_limits(request["pid_files"]),
        "listening": listening(),
        "registries": registries(),
    }


def meet(request):
    """Listens on `port` and connects to every peer there, until both have worked for all or time is up."""
    deadline = time.monotonic() + float(request["limit_s"])
    peers = dict(request["peers"])
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken = None
    try:
        listener.bind(("0.0.0.0", int(request["port"])))  # noqa: S104 - as the ranks will, and for seconds
        listener.listen(128)
    except OSError as error:
        taken = error.strerror
    heard, reached, why = set(), set(), {}
    waiting, kept = {}, []
    while time.monotonic() < deadline and not (
        len(reached) == len(peers) and (taken or len(heard) >= len(peers))
    ):
        for name in set(peers) - reached - {one for one, _ in waiting.values()}:
            begin(name, peers[name], int(request["port"]), waiting, why)
        ready, sent, _ = select.select([] if taken else [listener], list(waiting), [], 0.05)
        for _ in ready:
            client, _ = listener.accept()
            client.setblocking(False)
            kept.append(client)
        for client in list(kept):
            try:
                word = client.recv(64)
            except BlockingIOError:
                continue
            except OSError:
                word = b""
            kept.remove(client)
            client.close()
            if word:
                heard.add(word.decode("utf-8", "replace"))
        for one in sent:
            name, begun = waiting.pop(one)
            number = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number == 0:
                one.setblocking(True)
                one.sendall(request["name"].encode())
                reached.add(name)
            else:
                why[name] = os.strerror(number)
            one.close()
        for one, (name, begun) in list(waiting.items()):
            if time.monotonic() - begun > 1.0:
                why[name] = "no answer"
                del waiting[one]
                one.close()
    for name in set(peers) - reached:
        why.setdefault(name, "no answer")
    return {"taken": taken, "reached": sorted(reached), "why": why}


def begin(name, address, port, waiting, why):
    try:
        found = socket.getaddrinfo(address, port, socket.AF_INET, socket.SOCK_STREAM)[0]
        one = socket.socket(found[0], socket.SOCK_STREAM)
        one.setblocking(False)
        one.connect_ex(found[4])
        waiting[one] = (name, time.monotonic())
    except OSError as error:
        why[name] = str(error)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    sys.stdout.write(json.dumps({"look": look, "meet": meet}[asked["op"]](asked)) + "\n")
