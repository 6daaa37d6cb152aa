"""The readers take any bytes: what is true is read, what is not is counted with its reason."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import strategies as st

from orchestrator.parse.events import MAX_LINE_BYTES, MAX_SAMPLES, EventReader, RankLog
from orchestrator.parse.records import Step, _decode, _plain_step
from orchestrator.parse.status import NodeStatus, StatusProblem, read_status
from orchestrator.parse.strict import Misread
from orchestrator.parse.visible import ranks_text, visible, visible_bytes, visible_lines
from tests.cellmaker import NONCE, OTHER_NONCE, honest, make_cell, make_records, numbered, read, sealed
from tests.often import often

LINES = numbered(make_records(make_cell(), 0), rank=0)
WHOLE = b"".join(LINES)
STATUS = json.dumps(honest().statuses[0]).encode()
#: Examples in CI and in full.
MANY = (500, 2000)


def fed(data: bytes, cuts: list[int], rank: int = 0) -> RankLog:
    reader = EventReader(rank)
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(places):
        reader.feed(data[start:end])
    return reader.finish()


def step_line(**changes: Any) -> bytes:
    record = {**make_records(make_cell(), 0)[2], **changes}
    return sealed({"v": 1, "nonce": NONCE, "rank": 0, "seq": 2, "t_s": 1.0} | record)


def log_with(line: bytes) -> RankLog:
    """hello, ready, then `line`."""
    return read(b"".join(LINES[:2]) + line)


def reason_of(line: bytes) -> str:
    log = log_with(line)
    assert log.num_problems == 1, log.problems
    return log.problems[0].reason


def test_a_true_file_is_read_completely() -> None:
    log = read(WHOLE)
    assert log.num_problems == 0
    assert log.num_lines == log.num_records == len(LINES)
    assert [step.step for step in log.steps] == list(range(1, 13))
    assert log.nonces == (NONCE,)
    assert log.hello is not None
    assert dict(log.hello.versions)["torch"] == "2.13.0"
    assert log.ready is not None
    assert log.ready.num_parameters == 6_738_415_616
    assert log.memory is not None
    assert log.memory.device_peak_allocated_bytes == 40 << 30
    assert log.end is not None
    assert log.end_is_last
    assert log.end.count == log.count_before_end
    assert log.end.sha256 == log.sha256_before_end
    assert (log.num_bytes, log.sha256) == (len(WHOLE), hashlib.sha256(WHOLE).hexdigest())


@often(*MANY, data=st.binary(max_size=600), cuts=st.lists(st.integers(0, 600), max_size=6))
def test_random_bytes_never_raise_and_chunks_change_nothing(data: bytes, cuts: list[int]) -> None:
    assert fed(data, cuts) == read(data)


@often(*MANY, data=st.data())
def test_nearly_true_files_never_raise_and_chunks_change_nothing(data: st.DataObject) -> None:
    mutated = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(mutated) - 1))
        kind = data.draw(st.sampled_from(["replace", "delete", "insert", "newline", "copy"]))
        if kind == "replace":
            mutated[place] = data.draw(st.integers(0, 255))
        elif kind == "delete":
            del mutated[place : place + data.draw(st.integers(1, 400))]
        elif kind == "insert":
            mutated[place:place] = data.draw(st.binary(max_size=20))
        elif kind == "newline":
            mutated[place:place] = b"\n"
        else:
            mutated[place:place] = mutated[place : place + 300]
        if not mutated:
            break
    whole = bytes(mutated)
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=8))
    log = fed(whole, cuts)
    assert log == read(whole)
    assert whole == WHOLE or log.num_problems > 0 or not log.end_is_last


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@often(
    *MANY,
    event=st.integers(0, len(LINES) - 1),
    changes=st.dictionaries(
        st.sampled_from(sorted({key for line in LINES for key in json.loads(line)})), _JSON, max_size=4
    ),
)
def test_any_value_under_a_true_crc_never_raises(event: int, changes: dict[str, Any]) -> None:
    changes.pop("crc32", None)
    record = {key: value for key, value in json.loads(LINES[event]).items() if key != "crc32"}
    data = b"".join(LINES[:event]) + sealed(record | changes)
    log = read(data)
    assert fed(data, [7, len(data) // 2]) == log
    json.dumps([problem.sample for problem in log.problems]).encode()


STEP = next(line for line in LINES if b'"event":"step"' in line)
_SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70) | st.just(2**70)


WAITING = {"data_wait_s": 0.001, "comm_wait_s": None}
SCALED = {"loss_scale": 65536.0, "updated": True}
PADDED = {"real_tokens": 700, "labelled_tokens": 90, "images": 3}
#: What cases/trainer/train.py writes: with and without padding, with and without a scaled loss.
STEPS = [
    json.loads(STEP) | more
    for more in ({}, WAITING, WAITING | SCALED, WAITING | PADDED, WAITING | PADDED | SCALED)
]


@pytest.mark.parametrize("step", STEPS, ids=["plain", "waiting", "scaled", "padded", "padded and scaled"])
def test_every_form_that_our_trainer_writes_takes_the_short_way(step: dict[str, Any]) -> None:
    line = json.dumps(step, separators=(",", ":")).encode()
    short = _plain_step(line, number=1)
    assert short is not None
    assert short == _decode(line, number=1)
    assert (short.real_tokens, short.data_wait_s) == (step.get("real_tokens"), step.get("data_wait_s"))


@often(
    *MANY,
    step=st.sampled_from(STEPS),
    changes=st.dictionaries(st.sampled_from(sorted(STEPS[-1])), _SCALAR, max_size=3),
    removed=st.sets(st.sampled_from(sorted(STEPS[-1])), max_size=1),
    more=st.dictionaries(st.text(max_size=5), _SCALAR, max_size=1),
    space=st.sampled_from(["", " "]),
)
def test_the_short_way_reads_a_step_as_the_long_way_does_or_not_at_all(
    step: dict[str, Any], changes: dict[str, Any], removed: set[str], more: dict[str, Any], space: str
) -> None:
    record = {key: value for key, value in step.items() if key not in removed} | changes | more
    line = json.dumps(record, separators=(",", f"{space}:")).encode()
    short = _plain_step(line, number=7)
    if short is not None:
        assert short == _decode(line, number=7)


@pytest.mark.parametrize(
    "repeated",
    [b',"loss":1.5', b',"loss" :1.5', b',"samples":1', b',"loss":1e400', b',"\\u006coss":2.0', b',"x":null'],
)
def test_a_key_that_stands_twice_never_takes_the_short_way(repeated: bytes) -> None:
    assert _plain_step(STEP.rstrip(b"\n"), number=1) is not None
    assert _plain_step(STEP.rstrip(b"}\n") + repeated + b"}", number=1) is None


@pytest.mark.parametrize("old", [b'"step":1,', b'"t_s":', b'"rank":0,'])
def test_the_long_way_alone_gives_reasons(old: bytes) -> None:
    line = STEP.rstrip(b"\n").replace(old, old[:-1].split(b":")[0] + b':"text",', 1)
    assert _plain_step(line, number=1) is None
    with pytest.raises(Misread):
        _decode(line, number=1)


@often(*MANY, data=st.binary(max_size=400))
def test_a_status_of_random_bytes_never_raises(data: bytes) -> None:
    assert isinstance(read_status(data), StatusProblem)


@often(*MANY, key=st.sampled_from(sorted(json.loads(STATUS))), value=_JSON, inner=st.booleans())
def test_a_status_with_any_value_never_raises(key: str, value: Any, inner: bool) -> None:
    document = json.loads(STATUS)
    if inner:
        first = next(iter(document["ranks"]))
        first[sorted(first)[len(key) % len(first)]] = value
    else:
        document[key] = value
    assert isinstance(read_status(json.dumps(document).encode()), NodeStatus | StatusProblem)


def test_one_byte_at_a_time_gives_the_same_log() -> None:
    assert fed(WHOLE, list(range(len(WHOLE)))) == read(WHOLE)


def test_every_edited_byte_is_seen() -> None:
    for place in range(0, len(WHOLE) - 1, 7):
        edited = bytearray(WHOLE)
        edited[place] ^= 1
        log = read(bytes(edited))
        assert log.num_problems > 0, place


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokens": True}, "tokens is a boolean, not an integer"),
        ({"tokens": 8192.0}, "tokens is a number, not an integer"),
        ({"tokens": "8192"}, "tokens is a string, not an integer"),
        ({"tokens": None}, "tokens is null, not an integer"),
        ({"start_s": [1]}, "start_s is a list, not a number"),
        ({"start_s": True}, "start_s is a boolean, not a number"),
        ({"loss": float("nan")}, "NaN is no JSON number"),
        ({"end_s": float("inf")}, "Infinity is no JSON number"),
        ({"end_s": 10**301}, "end_s is not a finite number below 1e300"),
        ({"step": 10**301}, "step is an integer beyond 1e300"),
        ({"loss_nonfinite": "NaN"}, "loss_nonfinite is none of nan, inf, -inf"),
        ({"v": 2}, "version 2 of the record format, not 1"),
        ({"rank": 1}, "a record of rank 1 in the file of rank 0"),
        ({"seq": 3}, "seq 3 where 2 was due"),
        ({"event": 7}, "event is a number, not a string"),
    ],
)
def test_a_known_key_of_another_type_is_not_understood(changes: dict[str, Any], reason: str) -> None:
    assert reason_of(step_line(**changes)) == reason


def test_a_missing_key_is_named() -> None:
    record = make_records(make_cell(), 0)[2]
    del record["tokens"]
    line = sealed({"v": 1, "nonce": NONCE, "rank": 0, "seq": 2, "t_s": 1.0} | record)
    assert reason_of(line) == "tokens is missing"


def test_a_number_that_only_a_float_overflow_makes_infinite_is_refused() -> None:
    line = step_line(loss=0.5)
    body = line[: line.index(b',"crc32"')].replace(b'"loss":0.5', b'"loss":1e999')
    import zlib

    forged = body + b',"crc32":"%08x"}\n' % zlib.crc32(body)
    assert reason_of(forged) == "loss is not a finite number below 1e300"


def test_a_repeated_key_is_refused() -> None:
    import zlib

    body = step_line()[: step_line().index(b',"crc32"')] + b',"tokens":1'
    assert reason_of(body + b',"crc32":"%08x"}\n' % zlib.crc32(body)) == "the key 'tokens' twice"


def test_huge_integers_are_integers() -> None:
    log = log_with(step_line(tokens=2**200))
    assert log.num_problems == 0
    assert log.steps[0].tokens == 2**200


def test_unknown_keys_are_ignored_and_unknown_events_counted() -> None:
    assert log_with(step_line(colour="blue", deep={"a": [1]})).num_problems == 0
    log = log_with(step_line(event="heartbeat"))
    assert (log.num_problems, log.num_unknown_events, log.num_records) == (0, 1, 3)


def test_nesting_without_end_is_not_understood() -> None:
    line = sealed({"v": 1}).replace(b'"v":1', b'"v":' + b"[" * 200_000)
    import zlib

    head = line[: line.index(b',"crc32"')]
    assert "nested" in reason_of(head + b',"crc32":"%08x"}\n' % zlib.crc32(head))


def test_an_integer_of_too_many_digits_is_not_understood() -> None:
    import zlib

    head = b'{"v":' + b"1" * 5000
    assert reason_of(head + b',"crc32":"%08x"}\n' % zlib.crc32(head)) == "a number with too many digits"


@pytest.mark.parametrize("cut", [1, 1000, MAX_LINE_BYTES + 3])
def test_a_line_beyond_the_cap_is_counted_and_not_held(cut: int) -> None:
    long = b"x" * (MAX_LINE_BYTES + 2) + b"\n"
    data = b"".join(LINES[:2]) + long + b"".join(LINES[2:])
    reader = EventReader(0)
    for start in range(0, len(data), max(cut, 997)):
        reader.feed(data[start : start + max(cut, 997)])
        assert len(reader._pending) <= MAX_LINE_BYTES
    log = reader.finish()
    assert log.num_problems == 1
    assert log.problems[0].reason == f"{MAX_LINE_BYTES + 2} bytes long, {MAX_LINE_BYTES} at most"
    assert log.problems[0].line == 3
    assert len(log.steps) == 12
    assert log.sha256 == hashlib.sha256(data).hexdigest()
    assert log == read(data)


def test_a_line_of_exactly_the_cap_is_read() -> None:
    line = sealed({"v": 1, "nonce": NONCE, "rank": 0, "seq": 0, "t_s": 1.0, "event": "x", "pad": ""})
    padded = sealed(
        {
            "v": 1,
            "nonce": NONCE,
            "rank": 0,
            "seq": 0,
            "t_s": 1.0,
            "event": "x",
            "pad": "a" * (MAX_LINE_BYTES + 1 - len(line)),
        }
    )
    assert len(padded) == MAX_LINE_BYTES + 1  # the newline is not of the line
    assert read(padded).num_unknown_events == 1


def test_a_cut_last_line_is_a_problem_until_it_is_complete() -> None:
    reader = EventReader(0)
    reader.feed(WHOLE[:-10])
    early = reader.finish()
    assert early.num_problems == 1
    assert "cut off" in early.problems[0].reason
    assert early.end is None
    assert early.sha256 == hashlib.sha256(WHOLE[:-10]).hexdigest()
    reader.feed(WHOLE[-10:])
    assert reader.finish() == read(WHOLE)


def test_only_the_first_problems_are_kept_and_all_are_counted() -> None:
    log = read(b"\x1b[31mred\n" * 1000)
    assert (log.num_problems, len(log.problems), log.num_lines) == (1000, MAX_SAMPLES, 1000)
    assert log.problems[0].sample == "\\x1b[31mred"
    assert [problem.line for problem in log.problems] == [1, 2, 3, 4, 5]


def test_feed_hands_out_records_as_they_complete() -> None:
    reader = EventReader(0)
    assert reader.feed(LINES[0] + LINES[1] + LINES[2][:-1])
    (step,) = reader.feed(b"\n")
    assert isinstance(step, Step)
    assert step.duration_s == pytest.approx(2.0)


def test_a_record_after_the_end_and_a_second_hello_are_problems() -> None:
    records = make_records(make_cell(), 0)
    doubled = read(b"".join(numbered([records[0], records[0], *records[1:]], rank=0)))
    assert doubled.problems[0].reason == "a second hello record"
    late = read(b"".join(numbered([*records, records[2]], rank=0)))
    assert late.problems[0].reason == "a record after the end record"
    assert not late.end_is_last


def test_distinct_nonces_are_kept_in_order() -> None:
    log = read(LINES[0] + numbered(make_records(make_cell(), 0), rank=0, nonce=OTHER_NONCE)[1])
    assert log.nonces == (NONCE, OTHER_NONCE)


def test_lone_surrogates_in_text_become_something_that_can_be_written() -> None:
    record = {"v": 1, "nonce": NONCE, "rank": 0, "seq": 2, "t_s": 1.0, "event": "fail"}
    text = json.dumps(record | {"type": "E", "message": "\ud800", "traceback": "x\udfff"})
    import zlib

    head = text.encode()[:-1]
    log = log_with(head + b',"crc32":"%08x"}\n' % zlib.crc32(head))
    assert log.fail is not None
    assert (log.fail.message, log.fail.traceback) == ("\ufffd", "x\ufffd")


def test_a_true_status_is_read() -> None:
    status = read_status(STATUS)
    assert isinstance(status, NodeStatus)
    assert [rank.rank for rank in status.ranks] == [0, 1]
    assert status.rank(1) is not None
    assert status.rank(7) is None


def test_a_status_of_a_rank_that_never_started_is_read() -> None:
    document = json.loads(STATUS)
    document["ranks"][0].update(pid=None, ended_s=None, exit_code=None)
    assert isinstance(read_status(json.dumps(document).encode()), NodeStatus)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"contract": 2}, "contract 2, not 1"),
        ({"wall_s": "long"}, "wall_s is a string, not a number"),
        ({"ranks": [1]}, "ranks is a list, not a list of objects"),
        ({"ranks": None}, "ranks is null, not a list of objects"),
    ],
)
def test_a_status_that_is_none_says_why(change: dict[str, Any], reason: str) -> None:
    assert read_status(json.dumps({**json.loads(STATUS), **change}).encode()) == StatusProblem(reason=reason)


def test_hidden_characters_become_visible_and_stay_so() -> None:
    text = "a\x1b[2J\r\n\u202e\u2028\x9b é配置"
    shown = visible(text)
    assert shown == "a\\x1b[2J\\x0d\\x0a\\u202e\\u2028\\x9b é配置"
    assert visible(shown) == shown
    assert visible("x" * 500, limit=10) == "x" * 9 + "…"
    assert visible_bytes(b"\xff\x00ok") == "\\xff\\x00ok"
    assert visible_lines("a\n\tb\x07") == "a\n    b\\x07"


def test_ranks_are_written_short() -> None:
    assert ranks_text([3]) == "rank 3"
    assert ranks_text([5, 0, 1, 2, 7, 8]) == "ranks 0-2, 5, 7, 8"


OTHERS: list[dict[str, Any]] = [
    {"event": "saved", "file": "projector-0/model.safetensors", "bytes": 9, "sha256": "0" * 64},
    {"event": "answer", "question": "validation_Art_1", "tokens": [1, 2]},
    {
        "event": "evaluation",
        "start_s": 1.0,
        "end_s": 2.0,
        "data_sha256": "0" * 64,
        "num_questions": 900,
        "answered": 1,
        "decoding": "greedy",
    },
]


def with_others(changes: dict[str, Any] | None = None, at: int = 0) -> bytes:
    common = json.loads(LINES[0])
    head = {key: common[key] for key in ("v", "nonce", "rank", "t_s")}
    lines = [
        sealed({**head, "seq": seq, **other, **((changes or {}) if seq == at + 1 else {})})
        for seq, other in enumerate(OTHERS, start=1)
    ]
    return b"".join([LINES[0], *lines])


def test_answers_and_what_a_stage_leaves_are_read() -> None:
    log = read(with_others())
    assert log.num_problems == log.num_unknown_events == 0
    assert log.saved is not None
    assert log.evaluated is not None
    assert [(one.question, one.tokens) for one in log.answers] == [("validation_Art_1", (1, 2))]


@often(
    *MANY,
    at=st.integers(0, 2),
    changes=st.dictionaries(
        st.sampled_from(sorted({key for one in OTHERS for key in one})), _JSON, max_size=3
    ),
)
def test_any_value_in_them_is_read_or_counted(at: int, changes: dict[str, Any]) -> None:
    log = read(with_others(changes, at))
    assert log.num_records + log.num_problems >= len(OTHERS)
