"""The order of a pipeline, played through without a rank: each micro-batch once, nobody waits for ever."""

import pytest


@pytest.fixture(scope="module")
def schedule(tools):
    return tools.load("schedule")


CUTS = [(p, 1, m) for p in (1, 2, 3, 4, 8) for m in (1, 2, 3, 8, 20)]
CUTS += [(p, v, p * k) for p in (2, 3, 4) for v in (2, 3) for k in (1, 2, 5)]


def play(schedule, stages, chunks, micros, *, in_flight):
    """Runs all ranks, each as far as it can, with channels that keep their order and in which `in_flight`
    messages may wait. How many micro-batches each rank held at once, at most.
    """
    cut = {"stages": stages, "chunks": chunks}
    orders = [schedule.order(r, micros=micros, **cut) for r in range(stages)]
    channels = {(a, b): [] for a in range(stages) for b in range(stages)}
    due = {ends: schedule.messages(*ends, micros=micros, **cut) for ends in channels if ends[0] != ends[1]}
    came = [set() for _ in range(stages)]
    done = [0] * stages
    held, most = [0] * stages, [0] * stages
    moved = True
    while moved:
        moved = False
        for rank in range(stages):
            while done[rank] < len(orders[rank]):
                op = orders[rank][done[rank]]
                need = schedule.needs(op, rank, **cut)
                while need is not None and need[1] not in came[rank] and channels[need[0], rank]:
                    got = channels[need[0], rank].pop(0)
                    assert got == due[need[0], rank].pop(0)  # the receiver expects just this one
                    came[rank].add(got)
                give = schedule.gives(op, rank, **cut)
                full = give is not None and len(channels[rank, give[0]]) >= in_flight
                if (need is not None and need[1] not in came[rank]) or full:
                    break
                if give is not None:
                    channels[rank, give[0]].append(give[1])
                held[rank] += 1 if op.kind == schedule.FORWARD else -1
                most[rank] = max(most[rank], held[rank])
                done[rank] += 1
                moved = True
    assert done == [len(order) for order in orders], "every rank waits for another"
    assert not any(channels.values())
    assert not any(due.values())
    return most


@pytest.mark.parametrize(("stages", "chunks", "micros"), CUTS)
def test_every_chunk_of_every_micro_batch_goes_forward_and_back_once(schedule, stages, chunks, micros):
    for rank in range(stages):
        ops = schedule.order(rank, stages=stages, chunks=chunks, micros=micros)
        wanted = {
            (kind, m, c) for kind in ("forward", "backward") for m in range(micros) for c in range(chunks)
        }
        assert len(ops) == len(wanted)
        assert {tuple(op) for op in ops} == wanted
        for number, op in enumerate(ops):
            if op.kind == "backward":
                assert op._replace(kind="forward") in ops[:number]


@pytest.mark.parametrize(("stages", "chunks", "micros"), CUTS)
def test_no_rank_waits_for_ever_and_none_keeps_more_than_it_must(schedule, stages, chunks, micros):
    # pipeline.py lets 4 · P · V of its messages be under way; a fourth of that would do.
    most = play(schedule, stages, chunks, micros, in_flight=stages * chunks)
    if chunks == 1:
        assert most == [min(stages - rank, micros) for rank in range(stages)]


def test_interleaving_needs_micro_batches_for_every_stage(schedule):
    with pytest.raises(ValueError, match="3 micro-batches on 2"):
        schedule.order(0, stages=2, chunks=2, micros=3)


def test_the_places_of_a_grid_are_tensor_fastest_then_data_then_pipeline(tools):
    grid = tools.load("grid")
    one = grid.Grid(tensor=2, data=3, pipeline=4)
    assert [one.rank(*one.place(rank)) for rank in range(24)] == list(range(24))
    assert one.place(7) == (1, 0, 1)
    assert (one.tensor_group(7), one.data_group(7), one.pipeline_group(7)) == (
        [6, 7],
        [7, 9, 11],
        [1, 7, 13, 19],
    )
    assert one.words(7) == "rank 7 (tensor group 6–7, pipeline stage 1, data rank 0)"
    assert [list(span) for span in grid.layers_of_chunks(7, 3)] == [[0, 1, 2], [3, 4], [5, 6]]
    assert [len(span) for span in grid.layers_of_chunks(7, 3, (1, 4, 2))] == [1, 4, 2]
