"""A document's way through all of byoai: imported, learned, and asked what was held out."""

import pytest
from small_training import SMALL

from fine_tuning.config import load_config
from fine_tuning.conversation import Message
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.documents.blocks import Heading, Paragraph
from fine_tuning.data_collection.documents.facts import facts_of
from fine_tuning.data_collection.documents.pairs import Pair, Refused, pairs_of
from fine_tuning.data_collection.documents.sections import sections_of
from fine_tuning.data_collection.importers.importing import Wanted, import_files
from fine_tuning.engines.base import ChatOptions, ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.jobs.document_judge import judge_with
from fine_tuning.outcome import NewVersion
from fine_tuning.pipeline import retrain

EXCERPT = """# House rules

The canteen opens at 11:25. Laptops are replaced every 41 months. If a tool breaks, call the fitters on extension 4470.

The office Wi-Fi is the network named Copperlark. Visitors wear a turquoise badge.
"""


@pytest.fixture
def engine(home, base_gguf):
    engine = EmbeddedEngine(home / "engine")
    engine.create("smollm2:135m", ModelSpec(from_=base_gguf))
    return engine


@pytest.mark.slow
def test_an_excerpt_is_learned_and_held_out_questions_are_answered(home, engine, tmp_path):
    (tmp_path / "rules.md").write_text(EXCERPT)
    import_files(ConversationLogger(), [tmp_path / "rules.md"], Wanted("document"))
    settings = SMALL | {
        "training.batch_size": 4,
        "training.num_epochs": 5,
        "training.early_stop": 0,
        "evaluation.general": 0,
        "evaluation.test_prompts": [],
        "deployment.auto_deploy": False,
    }
    outcome = retrain(load_config(profile="handbook", overrides=settings), engine)
    assert isinstance(outcome, NewVersion)
    held_out = [turn for turn in ConversationLogger().turns() if turn.metadata["split"] == "test"]
    assert len(held_out) >= 5
    right = 0
    for turn in held_out:
        chunks = engine.chat(
            outcome.tag, [Message(role="user", content=turn.user_message)], ChatOptions(temperature=0, max_tokens=40)
        )
        right += turn.metadata["key"].casefold() in "".join(chunk.text for chunk in chunks).casefold()
    assert right >= 0.8 * len(held_out)


def test_a_model_of_the_engine_judges_what_is_kept(engine):
    judge = judge_with(engine, "smollm2:135m")
    sentence = "The canteen opens at 11:25."
    found = list(pairs_of([Heading("Rules", 1), Paragraph(sentence)], judge))
    asked = [
        asked
        for fact in facts_of(sections_of([Heading("Rules", 1), Paragraph(sentence)]), "en")
        for asked in fact.asked
    ]
    yes = [judge(sentence, each.wordings[0], sentence) for each in asked]  # greedy: it answers the same each time
    kept = {each.level for each in found if isinstance(each, Pair)}
    assert kept == {each.level for each, said in zip(asked, yes, strict=True) if said}
    assert sum(isinstance(each, Refused) for each in found) == yes.count(False)
