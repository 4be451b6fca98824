"""What is forgotten is gone from the jobs, too: from the table, and from all that they told and wrote."""

import json
from pathlib import Path

from waiting import PATIENCE

from fine_tuning.config import FineTuningConfig
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.default_base import DEFAULT_TAG
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.events import Finished, Note, Watch, events_to, read_events
from fine_tuning.forgetting import examine, forget
from fine_tuning.jobs import store
from fine_tuning.jobs.processes import this_process
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import State
from fine_tuning.model_management.model_deployer import go_live
from fine_tuning.model_management.model_registry import Registry

SECRET = "Zorbexine 4711 lives in Kiel"


def test_no_byte_of_it_is_left_in_jobs_and_one_that_runs_goes_on_telling(home: Path, tmp_path: Path) -> None:
    log = ConversationLogger()
    log.log_conversation(f"Who said {SECRET}?", "Nobody did, as far as I know.")
    kept = log.log_conversation("Is there tea in the kitchen?", "There is tea in the kitchen.")
    asked = {"prompts": [f"Is it true that {SECRET}?"], "models": ["base"]}
    job = store.add("compare", asked, origin=f"byoai ask {SECRET}", here=this_process())
    job.folder.mkdir(parents=True)
    job.log.write_text(f"answered: {SECRET}\n")
    job.result.write_text(f'{{"answers": [{{"answer": "{SECRET}", "tag": "base"}}]}}')
    prepared = home / "prepared" / "raw.jsonl"
    prepared.parent.mkdir()
    prepared.write_text(f'{{"messages": [{{"role": "user", "content": "{SECRET}"}}]}}\n')
    engine, config = EmbeddedEngine(tmp_path / "engine"), FineTuningConfig()
    with events_to(job.events) as tell:
        tell(Note(f"asked: {SECRET}"))
        tell(Finished("done", "it went well", answers=((f"Is it true that {SECRET}?", "No.", "Yes."),)))
        store.finish(job, State.COMPLETED, f"it said that {SECRET}", 0)
        outcome = forget(config, engine, Watch(), examine(config, engine, matching="zorbexine 4711"), teach_again=False)
        tell(Note("and goes on"))
    assert outcome.left == ()
    assert [path for path in home.rglob("*") if path.is_file() and b"orbexine" in path.read_bytes()] == []
    after = store.get(job.id)
    assert after.request["models"] == ["base"] and "it said that" in after.reason and after.state == State.COMPLETED
    assert [number for number, _ in read_events(job.events)] == [1, 2, 3]
    assert [turn.id for turn in log.turns()] == [kept.id]


def test_a_job_forgets_turns_and_removes_the_version_that_learned_them(
    queue: Queue, small_engine: EmbeddedEngine, home: Path
) -> None:
    log, registry, name = ConversationLogger(), Registry(), FineTuningConfig().tuned_name()
    gone = log.log_conversation(f"Who said {SECRET}?", "Nobody did, as far as I know.")
    kept = log.log_conversation("Is there tea in the kitchen?", "There is tea in the kitchen.")
    for number, turns in ((1, [kept.id]), (2, [kept.id, gone.id])):
        small_engine.create(f"{name}:v{number}", ModelSpec(DEFAULT_TAG, parameters={"seed": number}))
        registry.add(name, number, run=f"runs/{number}", turns=turns)
        go_live(small_engine, registry, name, number)
    job = queue.wait(queue.submit("forget", {"turns": [gone.id], "teach_again": False}).id, PATIENCE)
    assert (job.state, job.reason) == (State.COMPLETED, f"1 turn forgotten; {name}:v2 removed")
    told = json.loads(job.result.read_text())
    assert (told["turns"], told["retired"], told["left"], told["unfinished"]) == (1, [f"{name}:v2"], [], "")
    assert [turn.id for turn in log.turns()] == [kept.id]
    assert f"{name}:v2" not in {model.tag for model in small_engine.list_models()}
    live = registry.live(name)
    assert live and live.number == 1
    assert [path for path in home.rglob("*") if path.is_file() and b"orbexine" in path.read_bytes()] == []
