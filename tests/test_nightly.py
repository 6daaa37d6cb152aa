"""nightly/: one suite, unattended: alone on its cluster, within its time, and never without a report."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster import Cluster, Node
from orchestrator.doctor.checks.making import both
from orchestrator.errors import ConfigError
from orchestrator.messages import Message
from orchestrator.nightly import schedule
from orchestrator.nightly.document import Night, Ran, Said
from orchestrator.nightly.notice import Suitestate, after, notice, notify, textfile
from orchestrator.nightly.showing import blocks, text, worth_saying
from orchestrator.nightly.staffing import Item, items, staffed
from orchestrator.suites import Entry, Suite, seconds
from tests.nightmaker import SPEED, result, store
from tests.starting import begun, ended
from tests.test_run import DEADLINE_S, small

ROOT = Path(__file__).parents[1]
CHINESE = re.compile(r"[\u4e00-\u9fff]")
SUITE = """\
schema: 1
description: one proxy
cells:
  - case: llama2_7b
gate:
  rehearse: true
  metrics: [tokens_per_second_per_device]
  min_effect: {tokens_per_second_per_device: 0.3}
"""


def cluster(nodes: int, spares: int = 0) -> Cluster:
    return Cluster(
        schema=1,
        description="x",
        vendor="nvidia",
        device="A800",
        transport="ssh",
        devices_per_node=8,
        nodes=tuple(Node(name=f"node{n}") for n in range(1, nodes + 1)),
        spares=tuple(Node(name=f"spare{n}") for n in range(1, spares + 1)),
        data_dir="/data",
        work_dir="/srv/nx8",
        interface="eth0",
    )


def item(num_nodes: int | None = None) -> Item:
    return Item(entry=Entry(case="llama2_7b"), num_nodes=num_nodes)


# Nodes --------------------------------------------------------------------------------------------


def test_a_bad_node_is_replaced_by_a_spare_and_the_scale_stays() -> None:
    who = staffed(cluster(4, spares=2), item(), {"node2": both("no docker"), "spare1": both("down")})
    assert who.nodes == ("node1", "spare2", "node3", "node4")
    assert who.replaced == {"node2": "spare2"}
    assert not who.left_out
    assert who.missing is None


def test_a_smaller_run_takes_another_node_of_the_cluster() -> None:
    who = staffed(cluster(4), item(2), {"node1": both("down")})
    assert who.nodes == ("node3", "node2")
    assert who.replaced == {"node1": "node3"}


def test_without_a_spare_a_run_of_all_nodes_shrinks_and_one_of_a_number_is_not_begun() -> None:
    bad = {"node2": Message("没有应答", "down")}
    shrunk = staffed(cluster(3), item(), bad)
    assert (shrunk.nodes, shrunk.left_out, shrunk.missing) == (("node1", "node3"), bad, None)
    assert staffed(cluster(3), item(3), bad).missing == Message(
        "3 个节点中可用 2 个（node2：没有应答）", "2 of 3 nodes are usable (node2: down)"
    )
    none = staffed(cluster(1), item(), {"node1": both("down")}).missing
    assert none is not None
    assert none.en == "0 of 1 nodes are usable (node1: down)"
    more = staffed(cluster(2), item(4), {}).missing
    assert more is not None
    assert more.en == "4 nodes are asked for, and the cluster has 2"


def test_a_suite_is_run_in_its_order_scale_by_scale() -> None:
    suite = Suite(
        schema=1,
        description="x",
        cells=(Entry(case="a", nodes=(4, 1)), Entry(case="b", stages=("finetune",))),
    )
    assert [one.name for one in items(suite)] == ["a 4 nodes", "a 1 nodes", "b finetune all nodes"]


@pytest.mark.parametrize(("said", "meant"), [("90s", 90.0), ("45m", 2700.0), ("6h", 21600.0)])
def test_a_time_has_its_unit(said: str, meant: float) -> None:
    assert seconds(said) == meant
    with pytest.raises(ValueError, match="unit"):
        seconds(said[:-1])


# What is said -------------------------------------------------------------------------------------


def figure(kind: str = "regression", *, new: bool = True, **other: Any) -> Said:
    return Said(
        **{
            "title": "llava1.5_7b A800 1x8 finetune bf16 @lab",
            "metric": SPEED,
            "unit": "tokens/s",
            "kind": kind,
            "new": new,
            "value": 2790.0,
            "median": 2937.0,
            "band_low": 2866.0,
            "band_high": 3008.0,
            "n": 30,
            "change": -0.05,
            "why": "-5.0%, outside ±2.4% of the median of 30",
            "runs": 2,
            "nights": 2,
            "run_id": "tonight",
            "cell_id": "c",
            "last_good": "yesterday",
            "changes": ("driver: driver 470.141.10 → 470.161.03 on node1,node2",),
            **other,
        }
    )


def a_night(
    folder: Path, *figures: Said, code: int = 0, state: Any = "done", ran: tuple[Ran, ...] = ()
) -> Night:
    return Night(
        folder=folder / "20260321T020000Z",
        suite="acceptance",
        cluster="lab",
        vendor="nvidia",
        planned=("a", "b"),
        started_utc="2026-03-21T02:00:00+00:00",
        ended_utc="2026-03-21T04:00:00+00:00",
        state=state,
        exit_code=code,
        ran=list(ran),
        figures=list(figures),
    )


def test_one_block_says_how_much_since_when_what_changed_and_what_to_do(tmp_path: Path) -> None:
    assert blocks(a_night(tmp_path, figure(), figure("in_band"), figure("suspect"))) == []
    assert blocks(a_night(tmp_path, figure(), figure("suspect", title="other"))) == [
        "REGRESSION llava1.5_7b A800 1x8 finetune bf16 @lab"
        "  tokens_per_second_per_device 2790 vs 2937 tokens/s"
        " (-5.0%, limit 2866, 2 runs, 2 nights)",
        "  changed since yesterday:",
        "    driver: driver 470.141.10 → 470.161.03 on node1,node2",
        "  look:   nx8 compare yesterday tonight",
        '  accept: nx8 accept tonight --cell c --reason "…"',
    ]


def test_a_report_says_what_was_not_begun_and_that_it_has_not_ended(tmp_path: Path) -> None:
    night = a_night(tmp_path, ran=(Ran(name="a", nodes=("n",), exit_code=0, verdicts={"c": "MEASURED"}),))
    assert "not begun  b" in text(night)
    night.ended_utc = None
    assert "not ended" in text(night)


def test_a_night_is_told_in_chinese_too_and_stored_in_english(tmp_path: Path) -> None:
    ran = (
        Ran(name="llama2_7b all nodes", nodes=("n",), exit_code=0, run_id="r", verdicts={"c": "MEASURED"}),
        Ran(
            name="b 4 nodes",
            nodes=(),
            exit_code=3,
            left_out={"node2": "E233 docker gave no answer: x"},
            replaced={"node1": "spare1"},
            reason="the time budget is used up",
        ),
        Ran(name="c all nodes", nodes=("n",), exit_code=4, reason="exit_codes: rank 1 exited 1", rerun=True),
    )
    night = a_night(tmp_path, figure(against="published:x/1"), figure("in_band", title="t"), code=3, ran=ran)
    night.planned = ("llama2_7b all nodes", "b 4 nodes", "d 1 nodes")
    night.notes = ["the time budget is used up", "what others said"]
    night.kept(Message("E233 docker 没有应答：x", "E233 docker gave no answer: x"))
    stored = json.dumps(night.document(), ensure_ascii=False)
    english = text(night)
    night.language = "zh"
    assert json.dumps(night.document(), ensure_ascii=False).partition("written_utc")[0] in stored
    assert not CHINESE.search(stored)
    assert not CHINESE.search(english)
    night.folder.mkdir()
    night.save()
    chinese = (night.folder / "report.txt").read_text("utf-8")
    assert chinese == text(night)
    for words in (
        "集群 lab（nvidia）上的 nightly acceptance，始于 2026-03-21T02:00:00+00:00",
        "2026-03-21T04:00:00+00:00 完成，退出码 3",
        "运行  llama2_7b 全部节点：c MEASURED  r",
        "运行  b 4 个节点：未运行  退出码 3  时间预算已用完  node1 由 spare1 代替"
        "  node2 未使用（E233 docker 没有应答：x）",
        "未开始  d 1 个节点",
        "备注  时间预算已用完",
        "备注  what others said（原文）",
        "，对照 published:x/1：-5.0%，超出 30 次的中位数 ±2.4%",
        "性能退化 llava1.5_7b A800 1x8 finetune bf16 @lab  tokens_per_second_per_device 2790，原为 2937"
        " tokens/s，对照 published:x/1（-5.0%，界限 2866，2 次运行，2 个夜晚）",
        "  自 yesterday 以来的变化：",
        "  查看：nx8 compare yesterday tonight",
    ):
        assert words in chinese, words
    assert worth_saying(night, busy_in_a_row=0)[0] == "未成功 b 4 个节点：时间预算已用完"
    night.state = "skipped"
    assert worth_saying(night, busy_in_a_row=2) == ["忙：连续 2 晚，时间预算已用完; what others said（原文）"]
    night.state = "done"
    _, events = after(Suitestate(), night, now_s=1.0)
    told = notice(night, events)
    assert told["title"] == "nx8 nightly acceptance（集群 lab）：1 性能退化，1 未成功"
    assert "这一夜以退出码 3 结束" in told["text"]
    assert [one["kind"] for one in told["events"]] == ["regression", "not_well"]


def test_what_doctor_and_changes_say_is_kept_in_both_languages(tmp_path: Path) -> None:
    from tests.test_doctor import findings, sound

    swap = {**sound().texts, "/proc/swaps": "Filename\n/dev/sda2 partition 8388604 0 -2\n"}
    night = a_night(tmp_path)
    night.looked(findings(sound(1, texts=swap), sound(2, docker=None, missed={"docker": "x"}, engine=None)))
    assert "doctor  node1: warn E229 swap is on (8 GiB)" in text(night)
    assert not CHINESE.search(text(night))
    night.language = "zh"
    shown = text(night)
    assert "doctor  node1：警告 E229 交换区已启用" in shown
    assert "doctor  node2：错误 E233 docker 没有应答：x" in shown


def test_news_is_a_change_of_state_and_nothing_else(tmp_path: Path) -> None:
    first, events = after(Suitestate(), a_night(tmp_path, figure(), code=1), now_s=1.0)
    assert [one.kind for one in events] == ["regression"]
    second, events = after(first, a_night(tmp_path, figure(new=False), code=1), now_s=2.0)
    assert events == ()
    third, events = after(second, a_night(tmp_path, figure("suspect")), now_s=3.0)
    assert events == ()
    fourth, events = after(third, a_night(tmp_path, figure("recovered")), now_s=4.0)
    assert [one.kind for one in events] == ["recovered"]
    _, events = after(fourth, a_night(tmp_path, figure("in_band")), now_s=5.0)
    assert events == ()


def test_a_night_that_went_wrong_is_news_once_and_so_is_the_next_good_one(tmp_path: Path) -> None:
    kinds, state = [], Suitestate()
    for at, code in enumerate((0, 4, 4, 7, 0, 0)):
        state, events = after(state, a_night(tmp_path, code=code), now_s=float(at))
        kinds.append([one.kind for one in events])
    assert kinds == [[], ["not_well"], [], [], ["well_again"], []]
    assert (state.last_run_s, state.last_success_s) == (5.0, 5.0)


def test_busy_once_is_normal_and_twice_is_news(tmp_path: Path) -> None:
    kinds, state = [], Suitestate()
    for _ in range(3):
        state, events = after(state, a_night(tmp_path, code=6, state="skipped"), now_s=9.0)
        kinds.append([one.kind for one in events])
    assert kinds == [[], ["busy"], []]
    assert state.last_success_s is None


def test_the_command_gets_json_and_its_failure_is_a_line(tmp_path: Path) -> None:
    night = a_night(tmp_path, figure(), code=1)
    _, events = after(Suitestate(), night, now_s=1.0)
    into = tmp_path / "got.json"
    assert notify(("tee", str(into)), night, events, home=tmp_path) is None
    told = json.loads(into.read_bytes())
    assert told["title"] == "nx8 nightly acceptance on lab: 1 REGRESSION"
    assert "driver 470.141.10" in told["text"]
    assert told["events"][0]["kind"] == "regression"
    assert notify(("false",), night, events, home=tmp_path) == "E744 false exited 1: "
    assert "cannot be started" in (notify(("/nowhere",), night, events, home=tmp_path) or "")
    assert notify(("false",), night, (), home=tmp_path) is None


@pytest.mark.parametrize(
    ("style", "found"),
    [("feishu", "content"), ("dingtalk", "text"), ("wecom", "text"), ("slack", "text"), ("json", "title")],
)
def test_the_webhook_template_posts_what_each_chat_takes(tmp_path: Path, style: str, found: str) -> None:
    got: list[dict[str, Any]] = []
    answers = iter([b'{"code": 0}', b'{"errcode": 310000}'])

    class Chat(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(next(answers))

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Chat)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        night = a_night(tmp_path, figure(), code=1)
        _, events = after(Suitestate(), night, now_s=1.0)
        sent = json.dumps(notice(night, events))
        url = tmp_path / "url"
        url.write_text(f"http://127.0.0.1:{server.server_port}/hook\n")
        url.chmod(0o600)
        argv = (sys.executable, str(ROOT / "tools/notify/webhook.py"), style)
        environment = {**os.environ, "NX8_WEBHOOK_FILE": str(url), "no_proxy": "*"}

        def post() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                argv, input=sent, capture_output=True, text=True, timeout=DEADLINE_S, env=environment
            )

        assert post().returncode == 0
        refused = post()
        assert refused.returncode == 1
        assert "310000" in refused.stderr
        url.chmod(0o644)
        assert "others may read it" in post().stderr
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert "REGRESSION" in json.dumps(got[0][found] if found != "title" else got[0])


def test_the_mail_template_hands_a_whole_mail_to_sendmail(tmp_path: Path) -> None:
    sendmail = tmp_path / "sendmail"
    sendmail.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/argv\ncat > {tmp_path}/mail\n')
    sendmail.chmod(0o755)
    night = a_night(tmp_path, figure(), code=1)
    _, events = after(Suitestate(), night, now_s=1.0)
    subprocess.run(
        (sys.executable, str(ROOT / "tools/notify/mail.py"), "ops@example.org"),
        input=json.dumps(notice(night, events)).encode(),
        env={**os.environ, "NX8_SENDMAIL": str(sendmail)},
        check=True,
        timeout=DEADLINE_S,
    )
    mail = (tmp_path / "mail").read_text()
    assert "Subject: nx8 nightly acceptance on lab: 1 REGRESSION" in mail
    assert "To: ops@example.org" in mail
    assert (tmp_path / "argv").read_text() == "-t -i\n"


def test_the_textfile_is_one_that_prometheus_takes(tmp_path: Path) -> None:
    night = a_night(
        tmp_path,
        figure(),
        code=1,
        ran=(Ran(name="a", nodes=("n",), exit_code=0, verdicts={"c": "MEASURED", "d": "FAILED"}),),
    )
    shown = textfile(night, Suitestate(last_run_s=1.7e9, last_success_s=1.7e9), duration_s=60.0)
    assert 'nx8_nightly_regressions{suite="acceptance",cluster="lab",vendor="nvidia"} 1.0' in shown
    assert 'verdict="FAILED"} 1.0' in shown
    checked = subprocess.run(
        ("promtool", "check", "metrics"), input=shown, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    never = textfile(night, Suitestate(last_run_s=1.0), duration_s=1.0)
    assert "last_success" not in never


# The schedule -------------------------------------------------------------------------------------


def wanted(tmp_path: Path, **other: Any) -> schedule.Wanted:
    return schedule.Wanted(
        **{
            "suite": "nightly",
            "cluster": "lab",
            "program": Path(sys.executable),
            "home": tmp_path,
            "budget_s": 3600.0,
            **other,
        }
    )


def verified(files: tuple[schedule.File, ...]) -> str:
    """What systemd says about units; nothing where all is well."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed here (.ci/run installs the package systemd)")
    schedule.install(files)
    done = subprocess.run(
        ("systemd-analyze", "verify", "--man=no", *(str(one.path) for one in files)),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    return f"exit {done.returncode}: {done.stderr}" if done.returncode or done.stderr else ""


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    files = schedule.systemd(wanted(tmp_path, user="daemon", textfile=tmp_path), tmp_path / "units")
    assert verified(files) == ""
    service, timer = (one.text for one in files)
    assert "SuccessExitStatus=6" in service
    assert "TimeoutStartSec=5400" in service
    assert "OnCalendar=*-*-* 02:00:00" in timer


def test_systemd_takes_the_units_of_a_folder_with_an_odd_name(tmp_path: Path) -> None:
    odd = tmp_path / 'it\'s 100% "odd" $HOME \\ here'
    odd.mkdir()
    program = odd / "nx8"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    files = schedule.systemd(wanted(odd, program=program), tmp_path / "units")
    assert verified(files) == ""
    (line,) = re.findall(r"^ExecStart=(.*)$", files[0].text, re.MULTILINE)
    assert "100%%" in line
    assert "$$HOME" in line


def test_cron_gets_one_line_that_a_shell_reads_as_it_was_meant(tmp_path: Path) -> None:
    odd = tmp_path / "it's 100% odd"
    one = schedule.cron(wanted(odd, at="23:05", user="bench"), tmp_path)
    line = one.text.splitlines()[-1]
    assert line.startswith("5 23 * * * bench ")
    command = line.split(" ", 6)[6].replace("\\%", "%")
    said = subprocess.run(
        ("sh", "-c", f'set -- {command}; printf "%s\\n" "$@"'), capture_output=True, text=True, timeout=60
    ).stdout.splitlines()
    assert said == list(schedule.argv(wanted(odd)))
    assert "." not in one.path.name


def test_what_a_person_edited_is_never_overwritten(tmp_path: Path) -> None:
    files = schedule.systemd(wanted(tmp_path), tmp_path / "units")
    assert len(schedule.install(files)) == 2
    assert schedule.install(files) == ()
    later = schedule.systemd(wanted(tmp_path, at="04:30"), tmp_path / "units")
    assert schedule.install(later) == (later[1].path,)
    edited = later[1].path.read_text().replace("04:30", "05:00")
    later[1].path.write_text(edited)
    with pytest.raises(ConfigError, match="was edited"):
        schedule.install(schedule.systemd(wanted(tmp_path, at="06:00", budget_s=60.0), tmp_path / "units"))
    assert later[1].path.read_text() == edited
    assert later[0].path.read_text() == later[0].text


@pytest.mark.parametrize("at", ["", "24:00", "2:00", "02:60", "02:00\nExecStart=/bin/true"])
def test_a_time_that_is_none_is_refused(tmp_path: Path, at: str) -> None:
    with pytest.raises(ConfigError, match="E743"):
        schedule.systemd(wanted(tmp_path, at=at), tmp_path)
    with pytest.raises(ConfigError, match="E743"):
        schedule.cron(wanted(tmp_path, at=at), tmp_path)


@pytest.mark.parametrize("user", ["", "bench\n* * * * * root true", "bench root", "-x", "ünï"])
def test_an_account_that_is_none_is_refused(tmp_path: Path, user: str) -> None:
    with pytest.raises(ConfigError, match="E743"):
        schedule.systemd(wanted(tmp_path, user=user), tmp_path)
    with pytest.raises(ConfigError, match="E743"):
        schedule.cron(wanted(tmp_path, user=user), tmp_path)


# Whole nights -------------------------------------------------------------------------------------


def homed(home: Path, suite: str = SUITE) -> Path:
    small(home)
    (home / "cases/suites/tests.yaml").write_text(suite)
    return home


def nightly(home: Path, *words: str) -> subprocess.Popen[str]:
    return begun(home, "nightly", "tests", *words)


def nights(home: Path) -> list[Path]:
    return sorted((home / "results/nightly/tests").glob("2*"))


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "night.json").read_bytes())


def until(what: Any) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def left_behind(home: Path) -> list[str]:
    """Processes that have this home in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode("utf-8", "replace")
            if str(home) in words and int(path.parent.name) != os.getpid():
                found.append(words.replace("\0", " "))
    return found


def earlier(home: Path, folder: Path, night: int, speed: float) -> None:
    """The run of `folder` again, so many nights ago and at another speed."""
    document = json.loads((folder / "result.json").read_bytes())
    at = datetime.fromisoformat(document["run"]["created_utc"]) - timedelta(days=night)
    document["run"]["created_utc"] = at.isoformat(timespec="seconds")
    document["run"]["run_id"] = f"{at:%Y%m%dT%H%M%SZ}-earlier"
    document["cells"][0]["metrics"][SPEED]["value"] = speed
    store(home / "results", document)


@pytest.mark.trainer
def test_nights_from_the_first_to_a_regression(home: Path, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    homed(home, f"{SUITE}notify: [tee, {told}]\n")
    first = nightly(home)
    until(lambda: any((home / "results/runs").glob("2*/cells/*/node0")))
    before = snapshot(home / "results/nightly")
    code, stdout, stderr = ended(nightly(home), limit_s=DEADLINE_S)
    assert code == 6
    assert "error[E740]" in stderr
    assert f"pid {first.pid}" in stderr
    assert stdout == ""
    assert snapshot(home / "results/nightly") == before
    code, stdout, stderr = ended(first, limit_s=DEADLINE_S)
    assert code == 0, stderr
    assert "MEASURED" in stdout
    assert len(nights(home)) == len(list((home / "results/runs").glob("2*"))) == 1
    assert read(nights(home)[0])["state"] == "done"
    assert not told.exists()

    (run,) = (home / "results/runs").glob("2*")
    speed = json.loads((run / "result.json").read_bytes())["cells"][0]["metrics"][SPEED]["value"]
    for night in range(20, 1, -1):
        earlier(home, run, night, 20 * speed)
    earlier(home, run, 1, speed)  # last night's suspect
    shutil.rmtree(run)
    (home / "results/history.sqlite").unlink()

    code, stdout, stderr = ended(nightly(home, "--quiet", "--textfile", str(tmp_path)), limit_s=DEADLINE_S)
    assert code == 1, stderr
    assert stderr == ""
    assert stdout.startswith("REGRESSION (rehearsal) llama2_7b")
    assert "2 runs, 2 nights" in stdout
    assert "nx8 accept" in stdout
    assert json.loads(told.read_bytes())["events"][0]["kind"] == "regression"
    assert "nx8_nightly_regressions" in (tmp_path / "nx8_nightly_tests_local.prom").read_text()
    assert read(nights(home)[1])["exit_code"] == 1


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in sorted(folder.rglob("*"))}


def test_what_would_not_fit_the_budget_is_not_begun_and_who_is_told_reads_an_ended_report(
    home: Path, tmp_path: Path
) -> None:
    told = tmp_path / "told.txt"
    homed(home, f"{SUITE}notify: [cp, results/nightly/tests/latest/report.txt, {told}]\n")

    def here(document: dict[str, Any]) -> None:
        document["run"]["cluster"] = "local"
        document["phases"] = [{"name": "train", "seconds": 5000.0}]

    store(home / "results", result(0, change=here))
    code, stdout, _ = ended(nightly(home, "--budget", "10m"), limit_s=DEADLINE_S)
    assert code == 7
    assert "takes 5000 s as a rule" in stdout
    (night,) = nights(home)
    assert read(night)["ran"][0]["exit_code"] == 7
    assert len(list((home / "results/runs").glob("2*"))) == 1
    head = told.read_text().splitlines()[1]
    assert head.startswith("done at ")
    assert head.endswith(", exit 7")


@pytest.mark.slow
@pytest.mark.trainer
def test_a_budget_that_runs_out_ends_the_cell_and_leaves_a_partial_report(home: Path) -> None:
    homed(
        home,
        f"{SUITE}  window: 30\n".replace("  - case: llama2_7b\n", "  - case: llama2_7b\n    steps: 900\n"),
    )
    code, stdout, stderr = ended(nightly(home, "--budget", "9s"), limit_s=DEADLINE_S)
    assert code == 7, stderr
    assert "exit 7" in stdout
    assert left_behind(home) == []


def test_a_suite_that_does_not_fit_touches_nothing(home: Path) -> None:
    homed(home, SUITE.replace("llama2_7b", "lama2_7b"))
    code, _, stderr = ended(nightly(home), limit_s=DEADLINE_S)
    assert code == 2
    assert "E114" in stderr
    assert not (home / "results").exists()
    (home / "cases/suites/tests.yaml").write_text(
        SUITE.replace("  - case: llama2_7b\n", "  - {case: llama2_7b, nodes: [2]}\n")
    )
    code, _, stderr = ended(nightly(home), limit_s=DEADLINE_S)
    assert (code, "E742" in stderr) == (2, True)
    assert not (home / "results").exists()


def killed(home: Path, how: signal.Signals, rng: random.Random) -> None:
    """Starts a night, ends it at a random moment, and looks at what it left."""
    before = len(nights(home))
    process = nightly(home)
    until(lambda: len(nights(home)) > before or process.poll() is not None)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=rng.uniform(0, 6))
    process.send_signal(how)
    code, _, stderr = ended(process, limit_s=DEADLINE_S)
    assert code in ({-9, 0} if how == signal.SIGKILL else {128 + how, 0}), stderr
    until(lambda: left_behind(home) == [])
    document = read(nights(home)[-1])
    assert document["state"] in ("running", "stopped", "done")
    if how != signal.SIGKILL:
        assert document["state"] != "running"
        assert document["exit_code"] == code
    assert (nights(home)[-1] / "report.txt").read_text().startswith("nightly tests on local")


@pytest.mark.trainer
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_night_that_is_ended_leaves_a_report_and_nothing_at_work(home: Path, how: signal.Signals) -> None:
    killed(homed(home), how, random.Random(int(how)))


@pytest.mark.slow
@pytest.mark.trainer
@pytest.mark.timeout(1200)
def test_ten_nights_ended_at_random_moments_leave_a_report_each(home: Path) -> None:
    homed(home)
    rng = random.Random(20261121)
    for _ in range(10):
        killed(home, rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]), rng)
    code, stdout, stderr = ended(nightly(home), limit_s=DEADLINE_S)
    assert code == 0, stderr
    assert "MEASURED" in stdout


def test_install_prints_or_writes(home: Path, tmp_path: Path) -> None:
    homed(home)
    argv = (sys.executable, "-m", "orchestrator", "--home", str(home), "nightly", "install", "tests")

    def install(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run((*argv, *words), capture_output=True, text=True, timeout=DEADLINE_S)

    units = tmp_path / "units"
    dry = install("--dir", str(units), "--dry-run")
    assert "OnCalendar=*-*-* 02:00:00" in dry.stdout
    assert not units.exists()
    done = install("--dir", str(units))
    assert done.returncode == 0, done.stderr
    assert "systemctl daemon-reload && systemctl enable --now nx8-nightly-tests-local.timer" in done.stdout
    (service, timer) = sorted(units.iterdir())
    timer.write_text("mine\n")
    again = install("--dir", str(units))
    assert again.returncode == 2
    assert "error[E743]" in again.stderr
    assert timer.read_text() == "mine\n"
    assert service.exists()
    assert "root" in install("--cron", "--dry-run").stdout
