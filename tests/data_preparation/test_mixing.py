"""How often an epoch holds what came from where, and what it speaks of."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fine_tuning.config import DataPreparation, load_config
from fine_tuning.config.mix import Mix
from fine_tuning.conversation import Conversation, Turn
from fine_tuning.data_preparation.dataset_builder import build_dataset
from fine_tuning.data_preparation.mixing import (
    CHATS,
    Stratum,
    draw,
    largest_import,
    part_of,
    source_of,
    source_shares,
    stratum_shares,
    task_of,
    with_task,
)
from fine_tuning.data_preparation.topics import topics_of
from fine_tuning.errors import ConfigError, NoConversations
from fine_tuning.planning import read_said

ALL_LEARNED = DataPreparation(train_ratio=1.0, validation_ratio=0.0, test_ratio=0.0)


def said(count: int, source: object = None, about: str = "room", task: str = "") -> list[Conversation]:
    """So many conversations, no two alike."""
    facts = {key: fact for key, fact in {"source": source, "task": task}.items() if fact}
    name = source["name"] if isinstance(source, dict) else CHATS
    turns = [
        Turn(
            id=f"{name}-{about}-{number}",
            session_id=f"{name}-{about}-{number}",
            timestamp="",
            user_message=f"What is in {about} number {number * 7919 % 10007}?",
            bot_response=f"In it are {number * 104729 + 7} of the {about}s, and {number**3 + 11} more.",
            metadata=facts,
        )
        for number in range(count)
    ]
    return [Conversation(id=turn.session_id, turns=(turn,)) for turn in turns]


def learned(conversations: list[Conversation], mix: Mix, settings: DataPreparation = ALL_LEARNED) -> Counter[str]:
    """Return how often each conversation is in the train split, by id."""
    dataset = build_dataset(conversations, settings, mix=mix)
    return Counter(
        json.loads(line)["id"] for line in (dataset.path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    )


def of_source(counts: Counter[str], name: str) -> int:
    return sum(count for id, count in counts.items() if id.startswith(f"{name}-"))


OTHER = {"name": "handbook.md", "licence": "own"}


def test_the_source_is_what_the_import_was_called_and_else_the_chats() -> None:
    (chat,), (page,) = said(1), said(1, OTHER)
    assert source_of(chat.turns[0]) == CHATS
    assert source_of(page.turns[0]) == "handbook.md"
    assert source_of(page.turns[0].model_copy(update={"metadata": {"source": "rows.csv"}})) == "rows.csv"


def test_without_a_mix_each_is_there_once_and_the_dataset_is_the_one_of_before(home: Path) -> None:
    given = [*said(30), *said(10, OTHER)]
    assert set(learned(given, Mix()).values()) == {1}
    assert build_dataset(given, ALL_LEARNED) == build_dataset(given, ALL_LEARNED, mix=Mix())


def test_two_sources_are_mixed_half_and_half(home: Path) -> None:
    counts = learned([*said(90), *said(30, OTHER)], Mix(shares={CHATS: 0.5, "handbook.md": 0.5}))
    assert of_source(counts, CHATS) == of_source(counts, "handbook.md") == 60
    assert set(counts.values()) == {1, 2}


def test_none_is_there_more_often_than_it_may_and_the_shares_are_kept(home: Path) -> None:
    counts = learned([*said(200), *said(10, OTHER)], Mix(shares={CHATS: 0.5, "handbook.md": 0.5}, most_repeats=3))
    assert of_source(counts, CHATS) == of_source(counts, "handbook.md") == 30
    assert max(counts.values()) == 3


def test_a_source_that_is_switched_off_is_in_no_split_and_taught_by_none_of_its_turns(home: Path) -> None:
    dataset = build_dataset([*said(40), *said(40, OTHER)], DataPreparation(), mix=Mix(shares={"handbook.md": 0}))
    for split in ("train", "validation", "test"):
        assert "handbook" not in (dataset.path / f"{split}.jsonl").read_text(encoding="utf-8")
    assert len(dataset.manifest["turn_ids"]) == 40
    assert not any(id.startswith("handbook") for id in dataset.manifest["turn_ids"])
    assert dataset.manifest["sources"]["handbook.md"] == {"conversations": 40, "in_an_epoch": 0}


def test_all_switched_off_is_an_error_that_names_the_sources(home: Path) -> None:
    with pytest.raises(NoConversations, match=r"handbook\.md"):
        build_dataset(said(5, OTHER), ALL_LEARNED, mix=Mix(shares={"handbook.md": 0}))


def test_one_source_may_take_no_more_than_its_cap() -> None:
    sizes = {CHATS: 100, "forum": 700, "book": 200}
    assert source_shares(sizes, Mix(largest_share=0.3)) == pytest.approx({CHATS: 0.4, "forum": 0.3, "book": 0.3})
    assert source_shares(sizes, Mix(largest_share=0.5)) == pytest.approx({CHATS: 1 / 6, "forum": 0.5, "book": 1 / 3})
    named = source_shares(sizes, Mix(largest_share=0.3, shares={CHATS: 0.2, "book": 0.5}))
    assert named == pytest.approx({CHATS: 0.2, "forum": 0.3, "book": 0.5})


def test_where_every_source_is_capped_they_are_alike() -> None:
    shares = source_shares({"forum": 900, "book": 100}, Mix(largest_share=0.3))
    assert shares == pytest.approx({"forum": 0.5, "book": 0.5})
    assert source_shares({"forum": 900}, Mix(largest_share=0.3)) == {"forum": 1}


def test_an_import_that_is_most_of_an_epoch_is_warned_of(home: Path) -> None:
    given = [*said(10), *said(30, OTHER)]

    def warning(mix: Mix, turns: list[Conversation] = given) -> str:
        return largest_import(build_dataset(turns, ALL_LEARNED, mix=mix).manifest["sources"], mix)

    assert warning(Mix()).startswith("75 % of what would be learned is from the import handbook.md")
    assert not warning(Mix(largest_share=0.5))
    assert not warning(Mix(shares={"handbook.md": 0.9}))  # the user chose so
    assert not warning(Mix(also=("docs/handbook.md",)))
    assert not warning(Mix(), [*said(30), *said(10, OTHER)])
    assert not warning(Mix(), said(30, OTHER))  # nothing else is there to learn


def test_a_higher_temperature_evens_sources_out() -> None:
    sizes = {CHATS: 10, "forum": 1000}
    shares = [source_shares(sizes, Mix(temperature=temperature))[CHATS] for temperature in (1, 2, 100)]
    assert shares[0] == pytest.approx(10 / 1010)
    assert shares == sorted(shares)
    assert shares[2] == pytest.approx(0.5, abs=0.02)


def test_rare_topics_are_raised(home: Path) -> None:
    given = [*said(90, about="invoice payment due"), *said(10, about="parrot feather cage")]
    before, after = (learned(given, Mix(topic_temperature=temperature)) for temperature in (1, 100))
    rare = lambda counts: sum(count for id, count in counts.items() if "parrot" in id) / sum(counts.values())  # noqa: E731
    assert rare(before) == pytest.approx(0.1)
    assert rare(after) > 0.2


def test_topics_are_told_apart_by_their_words_and_are_the_same_each_time() -> None:
    texts = [f"the invoice {number} must be paid by the office" for number in range(30)]
    texts += [f"the parrot in cage {number} lost a feather again" for number in range(30)]
    found = topics_of(texts)
    assert found == topics_of(texts)
    assert not set(found[:30]) & set(found[30:])
    assert topics_of([]) == []
    assert topics_of(["one"]) == [0]


def test_a_common_topic_in_many_wordings_stays_one_topic_so_that_the_rare_one_is_raised() -> None:
    asked = ("Which room is the {} team in?", "Where does the {} team meet?", "What is the place of the {} team?")
    teams = [f"{first}{second}" for first in "bdfgklmnpr" for second in ("anter", "ellow", "isher")]
    texts = [f"{form.format(team)} The {team} team meets in room {team[::-1]}." for team in teams for form in asked]
    texts += [f"What do we feed the parrot on {day}? The parrot eats a handful of {day} seeds." for day in teams[:10]]
    found = topics_of(texts)
    assert len(set(found[:90])) == len(set(found[90:])) == 1
    assert found[0] != found[-1]
    shares = stratum_shares([Stratum(CHATS, "", topic) for topic in found], Mix(topic_temperature=2))
    assert shares[CHATS, "", found[-1]] == pytest.approx(0.25)


def test_a_topic_of_one_conversation_does_not_shorten_the_epoch() -> None:
    strata = [Stratum(CHATS, "", 0)] * 99 + [Stratum(CHATS, "", 1)]
    mix = Mix(topic_temperature=100)
    shares = stratum_shares(strata, mix)
    assert shares == pytest.approx({(CHATS, "", 0): 0.96, (CHATS, "", 1): 0.04})
    counts = draw([str(number) for number in range(100)], strata, shares, mix.most_repeats, 0)
    assert sum(counts) == 100 and counts[-1] == 4


@given(
    st.lists(
        # sources and tasks whose names together may be those of others, such as a and b/b, a/b and b
        st.tuples(st.sampled_from(["chats", "a", "a/b"]), st.sampled_from(["", "b", "b/b", "/"]), st.integers(0, 3)),
        min_size=1,
        max_size=60,
    ),
    st.dictionaries(st.sampled_from(["chats", "a", "a/b", "a/b/b", "a//"]), st.floats(0, 0.2), max_size=5),
    st.floats(1, 100),
    st.integers(1, 6),
)
def test_whatever_the_mix_no_count_is_beyond_its_bounds(
    said: list[tuple[str, str, int]], shares: dict[str, float], temperature: float, most: int
) -> None:
    mix = Mix(shares=shares, temperature=temperature, topic_temperature=temperature, most_repeats=most)
    parts = [part_of(source, task, mix) for source, task, _ in said]
    assert all(
        part == (name if (name := with_task(source, task)) in shares else source)
        for part, (source, task, _) in zip(parts, said, strict=True)
    )
    strata = [Stratum(part, task, topic) for part, (_, task, topic) in zip(parts, said, strict=True)]
    found = stratum_shares(strata, mix)
    assert sum(found.values()) == pytest.approx(1) or not any(found.values())
    counts = draw([str(number) for number in range(len(strata))], strata, found, most, 0)
    assert all(0 <= count <= most for count in counts)
    for stratum in set(strata):
        drawn = [count for count, each in zip(counts, strata, strict=True) if each == stratum]
        assert max(drawn) - min(drawn) <= 1
        assert not (found[stratum] == 0 and any(drawn))
    for part in set(parts) & shares.keys():
        whole = sum(share for stratum, share in found.items() if stratum.part == part)
        assert whole >= shares[part] - 1e-9 or not any(found.values())


def test_what_is_drawn_changes_little_when_the_log_grows() -> None:
    ids = [str(number) for number in range(200)]
    fewer, more = (draw(ids[:count], ["a"] * count, {"a": 1.0}, 4, 0) for count in (190, 200))
    assert fewer == more[:190]


def test_the_sample_and_a_file_are_learned_beside_the_log(home: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("question,answer\nWhat is the door code?,It is four blue dots.\n", encoding="utf-8")
    found = read_said(load_config(overrides={"mix.also": ["sample", str(rows)]}))
    assert Counter(source_of(turn) for turn in found.turns) == {"sample": 150, "rows.csv": 1}
    assert found.beside == 151


def test_a_configuration_with_shares_can_be_a_key() -> None:
    one, other = (load_config(overrides={"mix.shares": {"chats": share}}) for share in (0.5, 0.4))
    assert len({one, other, load_config(overrides={"mix.shares": {"chats": 0.5}})}) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"mix.shares": {"a": 0.7, "b": 0.6}},
        {"mix.shares": {"a": -0.1}},
        {"mix.temperature": 0.5},
        {"mix.most_repeats": 0},
        {"mix.repeats": {"a": -1}},
        {"mix.repeats": {"a": 2}, "mix.shares": {"a": 0.5}},
        {"mix.most": 3},
    ],
)
def test_a_mix_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="mix"):
        load_config(overrides=wrong)


def test_a_source_can_be_repeated_besides_the_shares_of_the_others(home: Path) -> None:
    page = {"name": "page"}
    counts = learned([*said(12), *said(3, OTHER), *said(4, page)], Mix(repeats={"handbook.md": 3, "page": 0}))
    assert [of_source(counts, name) for name in (CHATS, "handbook.md", "page")] == [12, 9, 0]
    both = learned([*said(12), *said(3, OTHER), *said(6, page)], Mix(repeats={"handbook.md": 2}, shares={"page": 0.5}))
    assert [of_source(both, name) for name in (CHATS, "handbook.md", "page")] == [9, 6, 9]


def test_a_task_of_a_source_is_mixed_by_a_share_or_repeats_of_its_own(home: Path) -> None:
    qa, summary = (said(count, OTHER, task, task) for count, task in ((30, "qa"), (10, "a/summary")))
    given = [*said(60), *qa, *summary]
    assert [task_of(each.turns[0]) for each in (given[0], qa[0], summary[0])] == ["", "qa", "a/summary"]

    def shares(mix: Mix) -> list[int]:
        counts = learned(given, mix)
        return [
            of_source(counts, CHATS),
            of_source(counts, "handbook.md-qa"),
            of_source(counts, "handbook.md-a/summary"),
        ]

    assert shares(Mix()) == [60, 30, 10]
    assert shares(Mix(shares={"handbook.md/a/summary": 0.3})) == [47, 23, 30]
    assert shares(Mix(shares={"handbook.md": 0.5})) == [50, 38, 12]  # the source is all of its tasks
    assert shares(Mix(shares={"handbook.md": 0.5, "handbook.md/qa": 0})) == [35, 0, 35]
    assert shares(Mix(shares={"handbook.md": 0})) == [60, 0, 0]
    assert shares(Mix(repeats={"handbook.md/a/summary": 3, "handbook.md/qa": 0})) == [60, 0, 30]
    assert shares(Mix(repeats={CHATS: 1, "handbook.md": 2})) == [60, 60, 20]
    assert shares(Mix(temperature=100)) == [50, 25, 25]  # sources, and the tasks of a source, alike


def test_the_card_tells_of_tasks_in_one_line_each(home: Path) -> None:
    dataset = build_dataset([*said(3, OTHER, task="a\n|b"), *said(2)], ALL_LEARNED)
    assert dataset.manifest["sources"]["handbook.md"] == {"conversations": 3, "in_an_epoch": 3}
    assert dataset.manifest["tasks"] == {"handbook.md/a\n|b": {"conversations": 3, "in_an_epoch": 3}}
    card = (dataset.path / "README.md").read_text(encoding="utf-8")
    assert card.endswith(
        "\n| task | conversations | in an epoch |\n| --- | --- | --- |\n| handbook.md/a \\|b | 3 | 3 |\n"
    )
    assert "## Tasks" not in (build_dataset(said(2), ALL_LEARNED).path / "README.md").read_text(encoding="utf-8")


def test_the_card_tells_of_the_dataset_without_its_texts(home: Path) -> None:
    conversations = [*said(30), *said(10, OTHER, "bridge"), *said(5, {"name": "a|b.csv"}, "market")]
    dataset = build_dataset(conversations, ALL_LEARNED, {"too_short": 2})
    card = (dataset.path / "README.md").read_text(encoding="utf-8")
    assert "| handbook.md | 10 | 10 | own |" in card and r"| a\|b.csv | 5 | 5 |  |" in card
    assert "| train split | 45 conversations, 45 turns |" in card and "2 too short" in card
    words = sorted(
        len(f"{turn.user_message} {turn.bot_response}".split()) for each in conversations for turn in each.turns
    )
    assert f"median {words[22]}, 90th percentile {words[39]}, most {words[-1]}" in card
    assert dataset.manifest["hash"] in card and "What is in" not in card
    assert sum(dataset.manifest["topics"]["largest"]) == dataset.manifest["topics"]["conversations"] == 45
