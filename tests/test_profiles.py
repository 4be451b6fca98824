"""Every way to a training takes the profile for documents where the log mostly consists of them, below a person's
own settings.
"""

import json
from datetime import datetime

import psutil
import pytest
from fastapi.testclient import TestClient

from fine_tuning.api.app import create_app
from fine_tuning.api.routes.jobs import NewJob, _request
from fine_tuning.cli.main import parser
from fine_tuning.cli.options import read_training_config
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.importers.importing import Wanted, import_files
from fine_tuning.integration import learning
from fine_tuning.integration.service import Service
from fine_tuning.jobs import scheduler
from fine_tuning.jobs.queue import Queue
from fine_tuning.profiles import for_documents, laid_below

RULES = """# House rules

The canteen opens at 11:25. Laptops are replaced every 41 months. If a tool breaks, call the fitters on extension 4470.
"""
HANDBOOK = load_config(profile="handbook").training
USUAL = load_config().training


@pytest.fixture
def document(home, tmp_path):
    (tmp_path / "rules.md").write_text(RULES)
    import_files(ConversationLogger(), [tmp_path / "rules.md"], Wanted("document"))


def rates(config: FineTuningConfig) -> tuple[float, int]:
    return config.training.learning_rate, config.training.num_epochs


def typed(*words: str) -> FineTuningConfig:
    return read_training_config(parser().parse_args(words))


@pytest.mark.parametrize(
    ("words", "rate", "epochs"),
    [
        (["retrain"], HANDBOOK.learning_rate, HANDBOOK.num_epochs),
        (["retrain", "--dry-run"], HANDBOOK.learning_rate, HANDBOOK.num_epochs),
        (["sweep"], HANDBOOK.learning_rate, HANDBOOK.num_epochs),
        (["retrain", "--set", "training.num_epochs=1"], HANDBOOK.learning_rate, 1),
        (["retrain", "--set", f"training.learning_rate={USUAL.learning_rate}"], USUAL.learning_rate, None),
        (["retrain", "--profile", "sample"], load_config(profile="sample").training.learning_rate, None),
        (["retrain", "--config", "config/fine_tuning_config.yaml"], USUAL.learning_rate, USUAL.num_epochs),
    ],
)
def test_the_command_line_takes_it_unless_a_person_chose(document, words, rate, epochs):
    got = rates(typed(*words))
    assert got[0] == rate and epochs in (None, got[1])


def test_what_was_set_on_the_settings_page_wins(document, home):
    (home / "settings.yaml").write_text("training.num_epochs: 2\n")
    assert rates(for_documents(load_config())) == (HANDBOOK.learning_rate, 2)
    assert laid_below(load_config(), "few_shot").training.num_epochs == 2


def test_without_documents_nothing_changes(home):
    log = ConversationLogger()
    log.log_conversation("Hello", "Hi there")
    assert for_documents(load_config()) == load_config()
    assert typed("retrain") == load_config()


def test_a_document_that_is_the_smaller_part_changes_nothing(document):
    log = ConversationLogger()
    for number in range(log.index.count()):
        log.log_conversation(f"Question {number}", f"Answer {number}")
    assert for_documents(load_config()) == load_config()


@pytest.mark.parametrize(
    ("kind", "more", "taken"),
    [
        ("retrain", {}, True),
        ("plan", {}, True),
        ("sweep", {}, True),
        ("evaluate", {}, False),
        ("retrain", {"request": {"sample": True}}, False),
        ("retrain", {"profile": "few_shot"}, False),
    ],
)
def test_the_api_takes_it_for_what_learns_the_log(document, kind, more, taken):
    asked = _request(NewJob(kind=kind, **more), Service())
    rate = FineTuningConfig.model_validate(asked["config"]).training.learning_rate
    assert (rate == HANDBOOK.learning_rate) == taken
    own = _request(NewJob(kind=kind, settings={"training.learning_rate": 0.0007}, **more), Service())
    assert own["config"]["training"]["learning_rate"] == 0.0007


def test_the_light_page_shows_the_settings_that_it_will_take(document):
    page = TestClient(create_app(Service()), base_url="http://127.0.0.1").get("/api/ui").text
    facts = json.loads(page.split('name="byoai-facts" content="')[1].split('"')[0].replace("&#34;", '"'))
    assert facts["chats"]["handbook"]
    assert facts["handbook"]["values"]["training.learning_rate"] == HANDBOOK.learning_rate


def test_the_schedule_takes_it(document, monkeypatch):
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None)
    schedule = {"schedule.enabled": True, "schedule.new_turns": 5, "schedule.hours": (0, 0)}
    job = scheduler.look(load_config().changed(schedule), Queue(heavy=0), datetime.now())  # it only waits
    assert job is not None
    assert job.request["config"]["training"]["learning_rate"] == HANDBOOK.learning_rate


def test_the_pages_take_it(document):
    assert learning.profile_of_log(load_config(), 20, 20) == "handbook"
    assert learning.profile_of_log(load_config(), 20, 10) == "few_shot"
