"""Draw the list of turns on the page Data.

The log's index filters, sorts and pages the list, so a page takes the same time however long the
list is.
"""

from collections.abc import Callable, Sequence

import streamlit as st

from chatbot.markdown import presentable
from chatbot.parts import turn_dialogs
from chatbot.parts.data_overview import short
from chatbot.parts.words import meaning
from chatbot.server import config, service
from fine_tuning.conversation import conversations_of
from fine_tuning.data_collection import data_export
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log import turn_list
from fine_tuning.data_collection.log.turn_list import MOST_MATCHES, Learned, Listed, Page, Wanted
from fine_tuning.integration.data_view import REASONS
from fine_tuning.planning import learned
from fine_tuning.units import counted

ROWS = 20
ALL = "turns-all"  # key of the filters for which all turns that match are selected, not only those of the page
STATES = {
    "": "All turns",
    "new": "New",
    "learned": "Learned by a version",
    "kept": "Will be learned",
    "dropped": "Dropped",
    "excluded": "Excluded",
    "edited": "Edited",
    "up": "Thumbs up",
    "down": "Thumbs down",
    "imported": "Imported",
}
ORDERS = {"newest": "Newest first", "oldest": "Oldest first", "longest": "Longest first"}
FORMATS = {
    "jsonl": "JSON lines, as the log has them",
    "json": "JSON, by conversation",
    "csv": "CSV, for spreadsheets",
    "parquet": "Parquet, for data frames",
    "chatml": "ChatML, to train elsewhere",
    "sharegpt": "ShareGPT, to train elsewhere",
    "alpaca": "Alpaca, to train elsewhere",
    "instruction": "Instructions, to train elsewhere",
    "dpo": "Preferences (DPO), as messages",
    "dpo-text": "Preferences (DPO), as text",
}
KINDS = {"": "The usual file", "jsonl": "JSON lines", "csv": "CSV", "parquet": "Parquet"}

state = st.session_state


def draw(log: ConversationLogger) -> None:
    wanted = filters(log)
    known = learned(config(), log, service().registry)
    number = state.setdefault("turns-page", 0)
    page = turn_list.page(log.index, known, wanted, ROWS, number * ROWS)
    if not page.turns and number:  # the last page is empty now
        state["turns-page"] = number = max(0, -(-page.total // ROWS) - 1)
        page = turn_list.page(log.index, known, wanted, ROWS, number * ROWS)
    found = counted(page.total, "turn")
    st.caption(f"{found} of the newest {MOST_MATCHES:,} that match" if page.is_cut else found)
    if not page.turns:
        st.info("No turn matches. Show all turns, or search for other words.", icon=":material/search_off:")
        return
    _actions(log, known, wanted, page)
    for place, each in enumerate(page.turns, number * ROWS + 1):
        _row(each, place)
    _paging(number, page.total)
    _export(log, known, wanted)


def filters(log: ConversationLogger) -> Wanted:
    """Draw the filters, and return what they select."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        state.setdefault("turns-text", "")
        st.text_input(
            "Search",
            key="turns-text",
            placeholder="Words that were said",
            icon=":material/search:",
            on_change=_first_page,
        )
        _choose("Show", "state", STATES)
        _choose("Sort", "order", ORDERS)
        with st.popover("More", icon=":material/tune:", help="Filter by reason, model and import"):
            _choose(
                "Dropped because",
                "reason",
                {"": "Any reason", **{reason: words.title for reason, words in REASONS.items()}},
            )
            _choose("Answered by", "model", {"": "Anybody", **{name: name for name in turn_list.models(log.index)}})
            _choose(
                "Came by the import",
                "imported",
                {"": "Any", **{id: f"{id} ({count:,})" for id, count, _ in log.index.imports()}},
            )
    given = {name: state[f"turns-{name}"] for name in ("text", "state", "order", "reason", "model", "imported")}
    return Wanted(**given)


def _choose(label: str, name: str, options: dict[str, str]) -> None:
    key = f"turns-{name}"
    if state.get(key) not in options:
        state[key] = next(iter(options))
    st.selectbox(label, list(options), format_func=options.__getitem__, key=key, on_change=_first_page)


def _first_page() -> None:
    state["turns-page"] = 0


def _actions(log: ConversationLogger, known: Learned, wanted: Wanted, page: Page) -> None:
    """Draw the buttons that act on the selected turns: those that are ticked on the page, or all that match."""
    ids = [each.turn.id for each in page.turns]
    everything = state.get(ALL) == wanted
    for id in ids if everything else ():
        state[f"pick-{id}"] = True
    ticked = [id for id in ids if state.get(f"pick-{id}")]
    count = page.total if everything else len(ticked)

    def chosen() -> Sequence[str]:
        return turn_list.ids(log.index, known, wanted) if everything else ticked

    with st.container(horizontal=True, vertical_alignment="center"):
        state["pick-all"] = len(ticked) == len(ids)
        st.checkbox("Select this page", key="pick-all", on_change=_pick_page, args=(ids,))
        if page.total > len(ids) and not everything:
            st.button(f"Select all {page.total:,} that match", type="tertiary", on_click=_pick_all, args=(wanted,))
        _exclude_button("Exclude", ":material/block:", log, chosen, True, not count)
        _exclude_button("Include", ":material/check:", log, chosen, False, not count)
        if st.button("Forget", icon=":material/delete_forever:", disabled=not count, help=meaning("forget")):
            turn_dialogs.forget(chosen())
        if count:
            st.caption(f"{count:,} selected")


def _exclude_button(
    label: str, icon: str, log: ConversationLogger, chosen: Callable[[], Sequence[str]], excluded: bool, disabled: bool
) -> None:
    st.button(
        label,
        icon=icon,
        disabled=disabled,
        on_click=_exclude,
        args=(log, chosen, excluded),
        help=meaning("excluded") if excluded else None,
    )


def _pick_all(wanted: Wanted) -> None:
    state[ALL] = wanted


def _pick_page(ids: Sequence[str]) -> None:
    state[ALL] = None
    for id in ids:
        state[f"pick-{id}"] = state["pick-all"]


def _pick_less() -> None:
    """Select only what is ticked on the page, since a turn of it was unticked."""
    state[ALL] = None


def _exclude(log: ConversationLogger, chosen: Callable[[], Sequence[str]], excluded: bool) -> None:
    ids = chosen()
    if turn_dialogs.record(lambda: log.exclude_all(ids, excluded)):
        state[ALL] = None
        for id in ids:
            if f"pick-{id}" in state:
                state[f"pick-{id}"] = False


def _row(each: Listed, place: int) -> None:
    turn = each.turn
    with st.container(border=True, horizontal=True, gap="small"):
        st.checkbox(
            f"Select turn {place}",
            key=f"pick-{turn.id}",
            label_visibility="collapsed",
            width="content",
            on_change=_pick_less,
        )
        with st.container(gap="xxsmall"):
            st.text(short(turn.user_message))
            st.text(short(turn.bot_response))
            st.caption(presentable(status_line(each)))
        st.button(
            "Open",
            key=f"open-{turn.id}",
            icon=":material/edit:",
            type="tertiary",
            help="Rate it, or edit it",
            on_click=turn_dialogs.open_turn,
            args=(turn.id,),
        )


def status_line(each: Listed) -> str:
    """Return the state of a turn as a line of text, such as "2026-01-31 · learned · edited"."""
    facts = each.turn.metadata
    said = [each.turn.timestamp[:10]]
    if each.excluded:
        said.append("excluded")
    elif each.reason:
        said.append(f"not learned: {REASONS[each.reason].title.lower() if each.reason in REASONS else each.reason}")
    if each.learned:
        said.append("learned")
    said += ["new"] * each.is_new + ["edited"] * each.edited + [f"thumbs {each.rating}"] * bool(each.rating)
    if source := facts.get("source"):
        said.append(f"imported from {source.get('name', 'a file')}" if isinstance(source, dict) else "imported")
    return " · ".join(filter(None, [*said, str(facts.get("model", ""))]))


def _paging(number: int, total: int) -> None:
    last = (total - 1) // ROWS
    if not last:
        return
    with st.container(horizontal=True, horizontal_alignment="center", vertical_alignment="center"):
        st.button(
            "Earlier page", icon=":material/chevron_left:", disabled=number == 0, on_click=_turn_to, args=(number - 1,)
        )
        st.caption(f"Page {number + 1:,} of {last + 1:,}")
        st.button(
            "Later page",
            icon=":material/chevron_right:",
            disabled=number >= last,
            on_click=_turn_to,
            args=(number + 1,),
        )


def _turn_to(number: int) -> None:
    state["turns-page"] = number


def _export(log: ConversationLogger, known: Learned, wanted: Wanted) -> None:
    with st.popover("Export", icon=":material/download:", help="These turns as a file, without excluded ones"):
        format = st.selectbox("As", list(FORMATS), format_func=FORMATS.__getitem__, key="export-format")
        if format not in data_export.LOG_FORMATS:
            kind = st.selectbox("File", list(KINDS), format_func=KINDS.__getitem__, key="export-kind")
            format = data_export.in_file(format, kind)
        if data_export.is_of_pairs(format):
            st.caption(
                "A pair is an edited answer with its original, or two answers to one question, one with a thumb up"
            )
        elif format not in data_export.LOG_FORMATS:
            st.caption("Answers with a thumb down, and those that were stopped or cut, are left out")
        st.download_button(
            "Download",
            lambda: exported(log, known, wanted, format),
            file_name=data_export.file_of(format),
            on_click="ignore",
            icon=":material/download:",
        )


def exported(log: ConversationLogger, known: Learned, wanted: Wanted, format: str) -> bytes:
    """Return the selected turns, without excluded ones, as a file in this format."""
    turns = [
        turn for turn in log.index.turns(turn_list.ids(log.index, known, wanted)) if not turn.metadata.get("excluded")
    ]
    return b"".join(data_export.render(conversations_of(turns), format))
