"""Draw the list of chats in the side bar: search, open, rename, pin, move, export, delete.

integration/chats.py finds the chats to show, and their titles.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import streamlit as st

from chatbot.markdown import literal
from chatbot.parts.doing import attempt
from chatbot.server import service
from fine_tuning.data_collection.log import chat_labels
from fine_tuning.data_collection.log.index import LogIndex
from fine_tuning.errors import ByoaiError
from fine_tuning.integration import chats
from fine_tuning.integration.chats import Chat, Hit
from fine_tuning.jobs.store import Job
from fine_tuning.units import answers

PAGE = 20  # chats shown at first, and more with each "Show more"
GLANCE = 2.0  # seconds between checks for changes of the list
STYLE = Path(__file__).with_name("history.css")
SEARCH, TITLE, FOLDER = "chats-search", "chats-title", "chats-folder"  # keys of typed texts
ORIGIN = "the chat page"
EXPORTS = {"markdown": ("Markdown, to read", "text/markdown"), "json": ("JSON, for programs", "application/json")}

state = st.session_state


def draw() -> None:
    """Draw the search field, and below it its results or the list of chats."""
    st.html(STYLE)
    wanted = st.text_input(
        "Search all chats",
        key=SEARCH,
        type="search",
        icon=":material/search:",
        placeholder="Search all chats",
        label_visibility="collapsed",
        max_chars=200,
    )
    try:
        index, hidden = service().log().index, chats.being_forgotten(service().queue)
        state.chats_seen = _look(index, hidden)
        with st.container(key="chats", gap=None):
            _results(chats.search(index, wanted, hidden=hidden)) if wanted.strip() else _list(index, hidden)
        if failed := chats.not_forgotten(service().queue, index):
            _failed(failed)
        _dialog(index)
    except ByoaiError as error:
        st.caption(literal(f"The list of chats cannot be read: {error}"))


@st.fragment(run_every=GLANCE)
def watch() -> None:
    """Redraw the page if a chat was begun, continued, named or deleted elsewhere."""
    try:
        now = _look(service().log().index, chats.being_forgotten(service().queue))
    except ByoaiError:
        return  # `draw` reports it
    if "chats_seen" in state and now != state.chats_seen:
        st.rerun()


def _look(index: LogIndex, hidden: set[str]) -> tuple[object, ...]:
    """Return a value that changes whenever the list of chats does.

    It contains no text of a chat, since it may stay in memory after the chat was deleted.
    """
    return index.mark(), frozenset(hidden), hash(frozenset(chat_labels.labels().items()))


# The list


def _list(index: LogIndex, hidden: set[str]) -> None:
    shown = state.setdefault("chats_shown", PAGE)
    pinned, folders = chats.pinned(index, shown, hidden=hidden), chats.folders(hidden)
    recent, more = chats.newest(index, shown, hidden=hidden)
    if not (pinned or folders or recent):
        st.caption("No chats yet. What you say with recording on is listed here.")
        return
    _group("Pinned", pinned)
    for name, ids in folders.items():
        _folder(index, name, ids, shown)
    for day, those in chats.by_day(recent).items():
        _group(day, those)
    if more:
        st.button("Show more", icon=":material/expand_more:", type="tertiary", key="chats-more", on_click=_show_more)


def _show_more() -> None:
    state.chats_shown += PAGE


def _group(title: str, those: Iterable[Chat]) -> None:
    for place, chat in enumerate(those):
        if place == 0:
            st.caption(title)
        _row(chat)


def _folder(index: LogIndex, name: str, ids: set[str], shown: int) -> None:
    """Draw a folder, open only if it contains the open chat. Chats in a closed folder are not looked up."""
    folder = st.expander(
        f"{literal(name)} · {len(ids)}",
        icon=":material/folder:",
        expanded=state.chat.id in ids,
        key=f"folder-{name}",
        on_change="rerun",
    )
    if folder.open:
        with folder, st.container(gap=None):
            for chat in chats.among(index, ids, shown):
                _row(chat)
            if len(ids) > shown:
                st.button(
                    "Show more", icon=":material/expand_more:", type="tertiary", key=f"more-{name}", on_click=_show_more
                )


def _row(chat: Chat) -> None:
    opened = chat.id == state.chat.id
    with st.container(
        horizontal=True, vertical_alignment="center", gap=None, wrap=False, key=f"row-{'open-' * opened}{chat.id}"
    ):
        st.button(
            literal(chat.title),
            key=f"chat-{chat.id}",
            type="secondary" if opened else "tertiary",
            width="stretch",
            wrap=False,
            on_click=open_chat,
            args=(chat.id,),
        )
        st.menu_button(
            "What to do with this chat",
            list(_CHOICES),
            key=f"menu-{chat.id}",
            icon=":material/more_vert:",
            type="tertiary",
            help="Rename, pin, move, export or delete this chat",
            format_func=partial(_choice, chat.label.pinned),
            on_click=_choose,
            args=(chat.id, chat.label.pinned),
        )


_CHOICES = {
    "rename": ":material/edit: Rename",
    "pin": ":material/keep: Pin",
    "move": ":material/folder: Move to a folder",
    "export": ":material/download: Export",
    "delete": ":material/delete: Delete",
}


def _choice(pinned: bool, what: str) -> str:
    return ":material/keep_off: Unpin" if what == "pin" and pinned else _CHOICES[what]


def _choose(id: str, pinned: bool) -> None:
    what = state[f"menu-{id}"]
    if what == "pin":
        attempt(lambda: chats.change(service().log().index, id, pinned=not pinned))
    elif what:
        state.dialog = (what, id)


def open_chat(id: str) -> None:
    """Show another chat. An answer that is being generated in the previous one continues, and is shown there later.

    The page opens it when it is drawn next. Until then the previous one stays in `state`, since other
    callbacks and fragments that use it may run before.
    """
    st.query_params["chat"] = id  # a reload returns to it
    state.other_chat = state.chat.id != id


# Search


def _results(hits: list[Hit]) -> None:
    if not hits:
        st.caption("No chat holds all of these words in one question or answer.")
    for hit in hits:
        _row(hit.chat)
        if hit.excerpt:
            st.caption(_marked(hit))


def _marked(hit: Hit) -> str:
    """Return the excerpt of a hit as Markdown, with the words in bold."""
    parts, at = [], 0
    for start, end in hit.marks:
        parts += [literal(hit.excerpt[at:start]), f"**{literal(hit.excerpt[start:end])}**"]
        at = end
    return "".join([*parts, literal(hit.excerpt[at:])])


# Dialogs: `state.dialog` is the open one, so that it stays open when the page is redrawn


def _dialog(index: LogIndex) -> None:
    what, id = state.get("dialog") or ("", "")
    if what in _DIALOGS:
        found = chats.among(index, [id])
        if found:
            _DIALOGS[what](found[0])
        else:
            close()


def close() -> None:
    """Close the open dialog, and forget what was typed in it."""
    state.dialog = None


def _done(what: Callable[[], object]) -> bool:
    """Close the dialog, and call `what`, the action that the user confirmed in it; return whether it succeeded."""
    close()
    return attempt(what)


def _end_if_closed() -> None:
    if not state.get("dialog"):
        st.rerun()


@st.dialog("Rename this chat", on_dismiss=close)
def _rename(chat: Chat) -> None:
    _end_if_closed()
    with st.form("rename", border=False):
        st.text_input("Title", value=chat.title, key=TITLE, max_chars=chat_labels.LONGEST_TITLE)
        st.caption(
            "If it is left empty, the chat gets back the title that was made for it. A title is deleted with its chat."
        )
        st.form_submit_button("Save", type="primary", on_click=_save_title, args=(chat.id,))


def _save_title(id: str) -> None:
    """Store the typed title, unless it is unchanged: an automatic title must not count as given by a person."""
    title, index = state[TITLE], service().log().index
    _done(lambda: None if title == chats.get(index, id).title else chats.change(index, id, title=title))


@st.dialog("Move to a folder", on_dismiss=close)
def _move(chat: Chat) -> None:
    _end_if_closed()
    names = chats.folder_names()
    st.selectbox(
        "Folder",
        names,
        index=names.index(chat.label.folder) if chat.label.folder in names else None,
        key=FOLDER,
        accept_new_options=True,
        placeholder="None: choose one, or type a new name",
        help="A folder exists as long as it contains a chat.",
    )
    with st.container(horizontal=True):
        st.button("Move", type="primary", on_click=_save_folder, args=(chat.id,))
        if chat.label.folder:
            st.button("Take out of its folder", on_click=_take_out, args=(chat.id,))


def _save_folder(id: str) -> None:
    folder = state.get(FOLDER) or ""
    _done(lambda: chats.change(service().log().index, id, folder=folder))


def _take_out(id: str) -> None:
    _done(lambda: chats.change(service().log().index, id, folder=""))


@st.dialog("Export this chat", on_dismiss=close)
def _export(chat: Chat) -> None:
    _end_if_closed()
    index = service().log().index
    if not chats.exportable(index, chat.id):
        st.info("There is nothing to export: all answers of this chat are excluded.", icon=":material/info:")
        return
    st.markdown(f"**{literal(chat.title)}**, {_turns(chat)}")
    with st.container(horizontal=True):
        for format, (label, kind) in EXPORTS.items():
            st.download_button(
                label,
                data=partial(chats.export, index, chat.id, format),
                file_name=chats.file_name(chat, format),
                mime=kind,
                icon=":material/download:",
                on_click="ignore",
                key=f"export-{format}",
            )


@st.dialog("Delete this chat for good?", on_dismiss=close)
def _delete(chat: Chat) -> None:
    _end_if_closed()
    learned = chats.learned_by(service().log().index, service().registry, chat.id)
    st.markdown(f"**{literal(chat.title)}**")
    st.markdown(
        f"{_turns(chat).capitalize()} will be removed from the log and from every file made from it. This cannot be "
        "undone."
    )
    if learned:
        names = ", ".join(map(literal, learned))
        st.markdown(
            f"{names} learned from it and will be removed, too. A new version is trained without it, which takes a "
            "while."
        )
    with st.container(horizontal=True):
        st.button(
            "Delete for good", type="primary", icon=":material/delete_forever:", on_click=_forget, args=(chat.id,)
        )
        st.button("Keep it", on_click=close)


def _forget(id: str) -> None:
    if not _done(lambda: chats.forget(service(), [id], origin=ORIGIN)):
        return
    state[SEARCH] = ""  # it may be what was said
    if state.chat.id == id:
        state.chat.stop()
        st.query_params.pop("chat", None)
        state.other_chat = True


def _turns(chat: Chat) -> str:
    return answers(chat.turns)


_DIALOGS: dict[str, Callable[[Chat], None]] = {"rename": _rename, "move": _move, "export": _export, "delete": _delete}


# What went wrong


def _failed(job: Job) -> None:
    st.warning(literal(f"A chat could not be deleted: {job.reason}"), icon=":material/warning:")
    st.button("Try again", key="chats-again", icon=":material/refresh:", on_click=_again, args=(job.id,))


def _again(id: str) -> None:
    attempt(lambda: service().queue.resume(id))
