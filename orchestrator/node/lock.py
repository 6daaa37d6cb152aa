"""A node's lock and its lease, as the node itself sees them: one folder, made by renaming, with the owner's
record in it and a counter that its owner must keep changing.

Standard library, Python 3.6 or later. Sent to a node as a part of the agent (whose operations are the do_…
below) and of the keeper. Every age is by the node's own monotonic clock; nothing of an earlier boot counts.

    owner.json   who: token, run, user, host, pid, since, lease_s, grace_s, runs (the folder of runs)
    lease        the counter, and when on this node's clock it last changed
    ending       the keeper has begun to end the run: from here on nobody renews
    keeper.py    the program that ends what nobody renews; keeper.pid is its process
"""

import errno
import fcntl
import json
import os
import shutil
import signal
import time

OWNER, LEASE, ENDING = b"owner.json", b"lease", b"ending"
KEEPER, KEEPER_PID = b"keeper.py", b"keeper.pid"
#: How long a keeper that is told to go may take.
KEEPER_END_S = 5.0
#: Looks at a lock that changes hands while we ask for it.
TRIES = 5


def as_bytes(text):
    return text.encode("utf-8", "surrogateescape")


def contents(path):
    """The text of a small file that we may read; None for anything else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return os.read(fd, 1 << 16).decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        os.close(fd)


def document(path):
    """The JSON object in a small file; None for anything else."""
    try:
        found = json.loads(contents(path) or "")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def put(path, value, mode=0o644):
    """Beside, then renamed: a reader sees the old text or the whole new one."""
    beside = b"%s.%d.new" % (path, os.getpid())
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    try:
        # Whoever finds the node busy may read why, whatever account it is and whatever our umask.
        os.fchmod(fd, mode)
        os.write(fd, value if isinstance(value, bytes) else json.dumps(value).encode("ascii"))
    finally:
        os.close(fd)
    os.rename(beside, path)


def this_boot():
    return (contents(b"/proc/sys/kernel/random/boot_id") or "").strip() or None


def began(pid):
    """Clock ticks after boot at which a process began; None when there is none. Zombies count as none."""
    text = contents(b"/proc/%d/stat" % pid)
    fields = text.rpartition(")")[2].split() if text else []
    return None if len(fields) < 20 or fields[0] in ("Z", "X") else int(fields[19])


def same(owner, other):
    """By the token, where there is one: who goes on after its controller died has another pid."""
    if not isinstance(owner, dict) or not isinstance(other, dict):
        return False
    if owner.get("token") is not None:
        return owner.get("token") == other.get("token")
    return owner == other


def state_of(path):
    """What is to be said of the lock at `path`; None where there is none. `expired` is False where the owner
    promised no lease: then only a person decides.
    """
    if not os.path.lexists(path):
        return None
    owner = document(os.path.join(path, OWNER))
    lease = document(os.path.join(path, LEASE)) or {}
    limit = (owner or {}).get("lease_s")
    age = None
    if lease.get("boot_id") == this_boot() and isinstance(lease.get("monotonic_s"), (int, float)):
        age = max(0.0, time.monotonic() - lease["monotonic_s"])
    ending = contents(os.path.join(path, ENDING))
    return {
        "owner": owner,
        "lease_s": limit,
        "age_s": age,
        "counter": lease.get("counter"),
        "expired": limit is not None and (age is None or age > limit or ending is not None),
        "ending": ending,
        "keeper": keeper_of(path) is not None,
    }


def keeper_of(path):
    """The process id of the keeper that watches this lock; None when none lives."""
    found = document(os.path.join(path, KEEPER_PID))
    if not found or not isinstance(found.get("pid"), int) or found.get("boot_id") != this_boot():
        return None
    return found["pid"] if began(found["pid"]) == found.get("start") is not None else None


class Held:
    """`with Held(path) as there:` keeps everybody else from moving or judging the lock; `there` is False when
    it is gone, or became another one while we waited.
    """

    def __init__(self, path):
        self.path, self.fd = path, None

    def __enter__(self):
        try:
            self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            fcntl.flock(self.fd, fcntl.LOCK_EX)
            return os.fstat(self.fd).st_ino == os.stat(self.path).st_ino
        except OSError:
            return False

    def __exit__(self, *_):
        if self.fd is not None:
            os.close(self.fd)


def count(path, counter):
    lease = {"counter": counter, "monotonic_s": time.monotonic(), "boot_id": this_boot()}
    put(os.path.join(path, LEASE), lease)


def cleared_away(path):
    """Moves the lock out of the way, which one alone can, and removes it."""
    aside = b"%s.%d.gone" % (path, os.getpid())
    os.rename(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def take_over(path, owner, source):
    """Makes a lock ours whose lease has expired and that nobody looks after; whose it was, or None. In its
    own place: a moment without a lock would be another's chance, who would not know what to clear away.
    """
    with Held(path) as there:
        state = state_of(path) if there else None
        if state is None or not state["expired"] or state["keeper"]:
            return None
        try:
            filled(path, owner, source)
        except OSError:
            return None  # another account's: it alone may do that
        for name in (ENDING, KEEPER_PID):
            if os.path.exists(os.path.join(path, name)):
                os.unlink(os.path.join(path, name))
        return state["owner"]


def do_lock(request, body):
    """One winner: a folder made beside with the owner's record inside is renamed into place, which fails
    when a lock is there. A loser gets the state of the lock that it found. The body is the keeper's program.
    """
    source = b"".join(body)
    path, owner = as_bytes(request["path"]), request["owner"]
    won, over, found = False, None, None
    for _ in range(TRIES):
        with Held(path):
            found = state_of(path)  # not in the middle of changing hands
        if found is None:
            won = made(path, owner, source)
        elif same(owner, found["owner"]) and not found["expired"]:
            won = True  # asked again, because the answer was lost or its controller was
        elif found["expired"] and not found["keeper"]:
            over = take_over(path, owner, source)
            won = over is not None
        else:
            break
        if won:
            watched(path)
            return {"won": True, "owner": owner, "over": over}, ()
    return {"won": False, "owner": (found or {}).get("owner"), "state": found}, ()


def filled(path, owner, source):
    """Lease first: an owner without one would never expire."""
    count(path, 0)
    if source:
        put(os.path.join(path, KEEPER), source)
    put(os.path.join(path, OWNER), owner)


def made(path, owner, source):
    beside = b"%s.%d.%d" % (path, os.getpid(), time.monotonic() * 1e6)
    os.mkdir(beside, 0o755)
    try:
        os.chmod(beside, 0o755)  # noqa: S103 - read by any account, whatever the umask of this one
        filled(beside, owner, source)
        fd = os.open(beside, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)
        os.rename(beside, path)
        return True
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        # In a folder with the sticky bit another account's lock may not even be tried to replace.
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EPERM, errno.EACCES):
            raise
        if not os.path.lexists(path):
            raise
        return False


def watched(path):
    """Starts the keeper of a lock that has lost it, or has none yet."""
    if os.path.exists(os.path.join(path, KEEPER)) and keeper_of(path) is None:
        pid = detached(["python3", "-I", "-S", os.path.join(path, KEEPER), path])
        if pid:
            put(os.path.join(path, KEEPER_PID), {"pid": pid, "start": began(pid), "boot_id": this_boot()})


def detached(argv):
    """The process id of a program that nobody waits for: a session of its own, adopted by init, no streams of
    ours. 0 when it could not be started.
    """
    heard, told = os.pipe()
    middle = os.fork()
    if middle == 0:
        try:
            pid = os.fork()
            if pid == 0:
                os.close(heard)
                os.setsid()
                os.chdir("/")
                null = os.open("/dev/null", os.O_RDWR)
                for number in range(3):
                    os.dup2(null, number)
                for one in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGALRM):
                    signal.signal(one, signal.SIG_DFL)
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                os.execvp(argv[0], argv)
            os.write(told, b"%d" % pid)
        finally:
            os._exit(0)
    os.close(told)
    text = os.read(heard, 32)
    # A program that could not be executed is gone by now, and its process with it.
    os.close(heard)
    os.waitpid(middle, 0)
    return int(text or b"0")


def do_renew(request, _body):
    """Changes the counter of a lease that has not expired, and of the `files` that the run's containers
    watch. `held` is False, with the reason, when there is nothing left to renew.
    """
    path = as_bytes(request["path"])
    with Held(path) as there:
        state = state_of(path) if there else None
        if state is None:
            return {"held": False, "why": "there is no lock any more"}, ()
        if not same(request["owner"], state["owner"]):
            return {"held": False, "why": "the lock is another's now", "owner": state["owner"]}, ()
        if state["expired"]:
            why = state["ending"] or "the lease expired"
            return {"held": False, "why": why, "age_s": state["age_s"]}, ()
        count(path, request["counter"])
        for one in request.get("files") or ():
            file = as_bytes(one)
            if os.path.isdir(os.path.dirname(file)):
                put(file, b"%d %d\n" % (request["counter"], time.monotonic() * 1e6))
        watched(path)
        return {"held": True, "age_s": state["age_s"]}, ()


def do_unlock(request, _body):
    """Only what is ours: the record in the folder must be the one given. Its keeper goes first."""
    path = as_bytes(request["path"])
    with Held(path) as there:
        owner = document(os.path.join(path, OWNER)) if there else None
        if not same(request["owner"], owner):
            return {"released": False, "owner": owner}, ()
        dismissed(path)
        cleared_away(path)
        return {"released": True, "owner": owner}, ()


def dismissed(path):
    """Ends the keeper, and waits until it is gone."""
    pid = keeper_of(path)
    if pid is None:
        return
    end = time.monotonic() + KEEPER_END_S
    os.kill(pid, signal.SIGTERM)
    while keeper_of(path) is not None:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def do_lease(request, _body):
    """The state of the lock, for whoever asks."""
    return {"state": state_of(as_bytes(request["path"]))}, ()
