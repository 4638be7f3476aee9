"""The decision log: nothing decided is lost, every line follows on the one before, and no bucket is waited for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.audit.residency.decided import Decisions
from holdfast.engine.policy import DecisionLogDamaged, DecisionNotRecorded, ResidencyRefused, check_hop, residency_for
from holdfast.engine.policy.log import DecisionLog
from holdfast.engine.policy.records import from_line, read_lines
from holdfast.engine.policy.spool import take
from holdfast.errors import HoldfastError
from policy_worlds import runtime_of, with_policy

PERMIT_EU = 'permit (principal, action, resource) when { context.target.jurisdiction == "EU" };\n'
GOLDEN = Path(__file__).parents[2] / "golden" / "decision" / "decisions.jsonl"


def findings(lines):
    """What is wrong with these lines, as the residency proof tells it."""
    decisions = Decisions()
    decisions.add(read_lines(b"".join(line + b"\n" for line in lines), "log"))
    return decisions.findings


def check_chain(pairs):
    pairs = list(pairs)
    assert [record.seq for record, _ in pairs] == list(range(1, len(pairs) + 1))
    assert findings([line for _, line in pairs]) == []


@pytest.fixture
def file(tmp_path):
    return with_policy(tmp_path, PERMIT_EU)


@pytest.fixture
def clock():
    return FakeClock(datetime(2026, 3, 1, 12, 59, tzinfo=UTC))


@pytest.fixture
def runtime(file, tmp_path, clock):
    return runtime_of(file, tmp_path / "state", clock=clock)


def ask(runtime, site="site-b", subject="prices", **kwargs):
    topology = runtime.topology
    return check_hop(subject, residency_for(topology, "prices"), site, topology.sites, source="site-a", **kwargs)


def shipped(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted((folder / "decisions").rglob("*.jsonl"))}


def lines_at(folder: Path) -> list[tuple]:
    objects = sorted(shipped(folder).items(), key=lambda found: found[0].rpartition("/")[2])
    return [pair for key, data in objects for pair in read_lines(data, key)]


def test_allowed_and_denied_are_written_down_before_the_answer(runtime, tmp_path):
    decision = ask(runtime)
    with pytest.raises(ResidencyRefused):
        ask(runtime, "site-c")
    (spooled,) = (tmp_path / "state/decisions").glob("*/*.jsonl")
    first, second = (record for record, _ in read_lines(spooled.read_bytes(), "spool"))
    assert (first.id, first.allowed, first.target.site, first.policy_sha256) == (
        decision.ids[0],
        True,
        "site-b",
        decision.policy_sha256,
    )
    assert (second.seq, second.allowed, second.target.jurisdiction, second.source.site) == (2, False, "US", "site-a")
    check_chain(read_lines(spooled.read_bytes(), "spool"))


def test_a_preview_is_not_written_down(runtime, tmp_path):
    assert ask(runtime, preview=True).ids == ()
    assert not (tmp_path / "state").exists()


def test_the_same_question_is_one_decision_for_a_minute(runtime, clock):
    first = ask(runtime)
    clock.advance(59)
    assert ask(runtime).ids == first.ids
    assert ask(runtime, subject="other").ids != first.ids
    clock.advance(2)
    assert ask(runtime).ids != first.ids


def test_what_is_shipped_lies_at_every_site_of_the_group_by_hour(runtime, tmp_path, clock):
    ask(runtime)
    clock.advance(61)  # past one o'clock
    ask(runtime)
    done = runtime.decisions.ship()
    assert (done.shipped, done.left, done.errors) == (2, 0, {})
    writer = runtime.decisions._slot.writer
    assert list(shipped(tmp_path / "site-a")) == [
        f"decisions/2026/03/01/12/{writer}-00000001.jsonl",
        f"decisions/2026/03/01/13/{writer}-00000002.jsonl",
    ]
    assert shipped(tmp_path / "site-a") == shipped(tmp_path / "site-b") == shipped(tmp_path / "site-c")
    check_chain(lines_at(tmp_path / "site-a"))
    assert not list((tmp_path / "state/decisions").glob("*/*.jsonl"))


def test_the_next_process_goes_on_with_the_numbers(runtime, file, tmp_path, clock):
    ask(runtime)
    runtime.decisions.close()
    clock.advance(61)
    second = runtime_of(file, tmp_path / "state", clock=clock)
    ask(second)
    second.decisions.close()
    assert [record.seq for record, _ in lines_at(tmp_path / "site-b")] == [1, 2]
    check_chain(lines_at(tmp_path / "site-b"))


def test_two_processes_at_once_are_two_writers(runtime, file, tmp_path):
    other = runtime_of(file, tmp_path / "state")
    ask(runtime)
    ask(other)
    assert runtime.decisions._slot.writer != other.decisions._slot.writer
    runtime.decisions.close()
    other.decisions.close()
    assert len(shipped(tmp_path / "site-a")) == 2


def test_a_site_that_is_away_keeps_nobody_waiting(file, tmp_path, clock):
    class Away:
        def __init__(self):
            self.away = {"site-b", "site-c"}
            self.objects = {}

        def __call__(self, site, key, data):
            if site in self.away:
                raise HoldfastError("no answer")
            assert self.objects.setdefault((site, key), data) == data

    put = Away()
    runtime = runtime_of(file, tmp_path / "state", clock=clock)
    log = runtime.topology._decisions = DecisionLog(tmp_path / "state/decisions", runtime.topology, put, clock)
    ask(runtime)
    first = log.ship()
    assert (first.shipped, first.left, set(first.errors)) == (0, 1, {"site-b", "site-c"})
    clock.advance(61)
    ask(runtime)  # a lone copy is not enough, and the next decision is made all the same
    put.away = {"site-c"}
    second = log.ship()
    assert (second.shipped, second.left, set(second.errors)) == (2, 0, {"site-c"})
    assert sorted(site for site, _ in put.objects) == ["site-a", "site-a", "site-b", "site-b"]
    clock.advance(61)
    assert ask(runtime).ids[0].endswith("-00000003")


@pytest.mark.parametrize(
    ("slow", "shipped", "told"), [({"site-b"}, 1, set()), ({"site-a", "site-b"}, 0, {"site-a", "site-b"})]
)
def test_a_slow_site_keeps_nobody_waiting_while_two_others_answer(file, tmp_path, slow, shipped, told):
    gate = threading.Event()

    def put(site, _key, _data):
        if site in slow:
            gate.wait(60)

    runtime = runtime_of(file, tmp_path / "state")
    log = runtime.topology._decisions = DecisionLog(tmp_path / "state/decisions", runtime.topology, put, runtime.clock)
    ask(runtime)
    done = log.ship(budget_seconds=0.6)
    gate.set()
    assert (done.shipped, set(done.errors)) == (shipped, told)


def test_other_bytes_under_the_key_are_told_and_kept(runtime, tmp_path):
    ask(runtime)
    writer = runtime.decisions._slot.writer
    for site in ("site-a", "site-b"):
        taken = tmp_path / site / f"decisions/2026/03/01/12/{writer}-00000001.jsonl"
        taken.parent.mkdir(parents=True)
        taken.write_text("forged\n")
    done = runtime.decisions.ship()
    assert (done.shipped, done.left) == (0, 1)
    assert "other decisions lie under this key" in done.errors["site-a"]
    assert taken.read_text() == "forged\n"


KILLED = """
import os, signal, sys
from pathlib import Path
from policy_worlds import runtime_of
from holdfast.engine.policy import check_hop, residency_for
runtime = runtime_of(Path(sys.argv[1]), Path(sys.argv[2]))
for number in range(int(sys.argv[3])):
    check_hop(f"prices-{number}", residency_for(runtime.topology, "prices"), "site-b", runtime.topology.sites)
print(runtime.decisions._slot.writer, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def python(code: str, *words: str) -> subprocess.CompletedProcess:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=environ, timeout=60)


def test_nothing_decided_is_lost_when_a_process_is_killed(file, tmp_path):
    done = python(KILLED, str(file), str(tmp_path / "state"), "7")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert shipped(tmp_path / "site-a") == {}
    next_one = runtime_of(file, tmp_path / "state")
    ask(next_one)
    assert next_one.decisions._slot.writer == done.stdout.strip()
    next_one.decisions.close()
    assert [record.seq for record, _ in lines_at(tmp_path / "site-b")] == list(range(1, 9))
    check_chain(lines_at(tmp_path / "site-b"))


def test_what_a_killed_process_left_is_shipped_by_one_that_has_another_writer(file, tmp_path):
    busy = runtime_of(file, tmp_path / "state")
    ask(busy)
    done = python(KILLED, str(file), str(tmp_path / "state"), "2")
    assert done.returncode == -signal.SIGKILL, done.stderr
    busy.decisions.ship()
    assert sorted(record.writer == done.stdout.strip() for record, _ in lines_at(tmp_path / "site-c")) == [0, 1, 1]


def test_a_process_that_ends_ships_by_itself(file, tmp_path):
    done = python(KILLED.rpartition("os.kill")[0], str(file), str(tmp_path / "state"), "1")
    assert done.returncode == 0, done.stderr
    assert len(lines_at(tmp_path / "site-a")) == 1


def test_a_child_after_a_fork_is_another_writer(file, tmp_path):
    code = KILLED.rpartition("print")[0] + (
        "child = os.fork()\n"
        "check_hop('again', residency_for(runtime.topology, 'prices'), 'site-a', runtime.topology.sites)\n"
        "if child == 0:\n    runtime.decisions.close()\n    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    done = python(code, str(file), str(tmp_path / "state"), "1")
    assert done.returncode == 0, done.stderr
    writers: dict[str, list[int]] = {}
    for record, _ in lines_at(tmp_path / "site-a"):
        writers.setdefault(record.writer, []).append(record.seq)
    assert sorted(writers.values()) == [[1], [1, 2]]


def test_a_torn_line_is_dropped_and_its_number_used_again(runtime, file, tmp_path, clock):
    ask(runtime)
    runtime.decisions._slot.close()
    (spooled,) = (tmp_path / "state/decisions").glob("*/*.jsonl")
    with spooled.open("ab") as torn:
        torn.write(b'{"action":"copy","allo')
    again = runtime_of(file, tmp_path / "state", clock=clock)
    ask(again, "site-a")
    again.decisions.close()
    assert [(record.seq, record.target.site) for record, _ in lines_at(tmp_path / "site-b")] == [
        (1, "site-b"),
        (2, "site-a"),
    ]
    check_chain(lines_at(tmp_path / "site-b"))


def test_a_writer_whose_files_were_spoilt_is_left_to_people_and_another_begins(runtime, file, tmp_path, clock, caplog):
    ask(runtime)
    runtime.decisions._slot.close()
    (spooled,) = (tmp_path / "state/decisions").glob("*/*.jsonl")
    spooled.write_bytes(b"no line\n")
    again = runtime_of(file, tmp_path / "state", clock=clock)
    assert ask(again).ids[0].endswith("-00000001")
    again.decisions.close()
    assert len(lines_at(tmp_path / "site-a")) == 1
    assert spooled.read_bytes() == b"no line\n"
    assert "cannot be read" in caplog.text


def blocked(tmp_path: Path) -> Path:
    (tmp_path / "state").write_text("a file where a folder should be")
    return tmp_path / "state"


def test_without_a_disk_a_decision_goes_straight_to_a_site(file, tmp_path, clock):
    runtime = runtime_of(file, blocked(tmp_path), clock=clock)
    ask(runtime)
    clock.advance(61)
    ask(runtime)
    assert [record.seq for record, _ in lines_at(tmp_path / "site-a")] == [1, 2]
    check_chain(lines_at(tmp_path / "site-a"))


def test_a_user_without_a_home_writes_straight_to_a_site(file, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "expanduser", lambda _self: (_ for _ in ()).throw(RuntimeError("no home")))
    runtime = runtime_of(file, "", clock=FakeClock())
    assert runtime.decisions_folder is None
    assert ask(runtime).ids[0].startswith("diskless-")
    assert len(lines_at(tmp_path / "site-a")) == 1


def test_what_is_decided_while_the_interpreter_ends_is_shipped_without_threads(runtime, tmp_path, monkeypatch):
    def no_more(_self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    ask(runtime)
    monkeypatch.setattr(threading.Thread, "start", no_more)
    assert runtime.decisions.ship().shipped == 1


def test_a_decision_that_cannot_be_written_down_anywhere_lets_nothing_happen(file, tmp_path, clock):
    def nowhere(_site, _key, _data):
        raise HoldfastError("no answer")

    runtime = runtime_of(file, blocked(tmp_path), clock=clock)
    runtime.topology._decisions = DecisionLog(tmp_path / "state/decisions", runtime.topology, nowhere, clock)
    with pytest.raises(DecisionNotRecorded, match="nothing was copied") as wrong:
        ask(runtime)
    assert "site-a: no answer" in wrong.value.found


def test_many_threads_write_one_chain(runtime, tmp_path):
    threads = [threading.Thread(target=lambda n=n: ask(runtime, subject=f"prices-{n}")) for n in range(16)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    runtime.decisions.ship()
    assert [record.seq for record, _ in lines_at(tmp_path / "site-a")] == list(range(1, 17))
    check_chain(lines_at(tmp_path / "site-a"))


def test_another_topologys_lines_go_only_to_its_own_buckets(runtime, file, tmp_path, clock):
    ask(runtime)
    runtime.decisions._slot.close()
    moved = tmp_path / "moved.yaml"
    moved.write_text(file.read_text().replace(str(tmp_path / "site-b"), str(tmp_path / "elsewhere")))
    (tmp_path / "elsewhere").mkdir()
    other = runtime_of(moved, tmp_path / "state", clock=clock)
    other.decisions.ship(everything=True)
    assert len(shipped(tmp_path / "site-a")) == 1
    assert shipped(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [lines[0].replace(b'"allowed":true', b'"allowed":false'), *lines[1:]],
    ],
)
def test_a_chain_shows_what_was_done_to_it(runtime, clock, tmp_path, spoil):
    for _ in range(3):
        ask(runtime)
        clock.advance(61)
    runtime.decisions.ship()
    lines = [line for _, line in lines_at(tmp_path / "site-a")]
    assert findings(lines) == []
    assert len(findings(spoil(lines))) == 1


@pytest.mark.parametrize(("old", "new"), [(b"}", b',"more":1}'), (b"decision/1", b"decision/2")])
def test_a_line_of_another_version_is_not_read(old, new):
    with pytest.raises(DecisionLogDamaged):
        list(read_lines(GOLDEN.read_bytes().replace(old, new), "log"))


def test_the_golden_log_is_read_and_written_with_the_same_bytes():
    pairs = list(read_lines(GOLDEN.read_bytes(), str(GOLDEN)))
    check_chain(pairs)
    assert [record.allowed for record, _ in pairs] == [True, False]
    assert [record.to_line() for record, _ in pairs] == [line for _, line in pairs]
    assert json.loads(pairs[1][1])["source"] is None
    assert from_line(pairs[0][1], "x").at == datetime(2026, 3, 1, 12, 0, 5, 42, tzinfo=UTC)


def test_numbers_are_never_given_twice_where_an_older_part_waits(tmp_path):
    destinations = {"x": ("local", "/x", "")}
    slot = take(tmp_path, destinations)
    base = from_line(GOLDEN.read_bytes().split(b"\n")[0], "golden")
    for seq in (1, 2):
        slot.append(
            base.model_copy(update={"seq": seq, "previous": slot.previous, "at": base.at + timedelta(hours=seq)})
        )
    older, newer = slot.segments()
    slot.forget(newer)
    slot.close()
    again = take(tmp_path, destinations)
    assert (again.writer, again.seq) == (slot.writer, 2)
    again.forget(older)
    again.close()
    assert take(tmp_path, destinations).seq == 2
