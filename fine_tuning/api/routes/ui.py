"""Routes of the light page at /api/ui, a small page that starts, watches and stops trainings through the API.

It is meant for a machine without a screen.
"""

import json
from enum import StrEnum

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse

from fine_tuning.api.dependencies import Serving
from fine_tuning.api.pages import UI, render
from fine_tuning.api.security import PAGE, Token
from fine_tuning.api.train_form import METHODS, SETTINGS, values_of
from fine_tuning.config import FineTuningConfig
from fine_tuning.errors import ByoaiError
from fine_tuning.integration import learning
from fine_tuning.integration.service import Service
from fine_tuning.integration.setting_fields import bounds
from fine_tuning.integration.setting_words import words_of
from fine_tuning.planning import count_new
from fine_tuning.profiles import FEW_SHOT, HANDBOOK, document_profile, laid_below, made_of_documents

router = APIRouter(include_in_schema=False)

# In addition to the policy of `security.Door`: scripts and styles come only from the files below, so that no text
# of a user or a model can become one.
_POLICY = "script-src 'self'; style-src 'self'; worker-src 'self'"
_HEADERS = {
    "content-security-policy": _POLICY,
    "cache-control": "no-store",  # since the page contains the token
}
_TYPES = {".js": "text/javascript", ".css": "text/css"}


class UiFile(StrEnum):
    """The files that the light page loads."""

    STYLE = "style.css"
    APP = "app.js"
    API = "api.js"
    FORM = "form.js"
    DATASET = "dataset.js"
    UPLOAD = "upload.js"
    HUB = "hub.js"
    PRESETS = "presets.js"
    JOB = "job.js"
    FEED = "feed.js"
    CURVE = "curve.js"
    RECENT = "recent.js"
    WORDS = "words.js"
    WORKER = "worker.js"
    SHA256 = "sha256.js"


@router.get("/")
def first_page() -> RedirectResponse:
    """Redirect `/` to the light page, where one starts trainings. In the web app, `/` is the chat page instead."""
    return RedirectResponse(PAGE, 303)


@router.get(PAGE)
def light_page(service: Serving) -> HTMLResponse:
    config = service.config
    page = render(
        "page.html.jinja",
        token=Token().read(),
        facts=json.dumps(_facts(service, config)),
        methods=METHODS,
        method=config.training.method.value,
        words_of=words_of,
        settings=[(setting, bounds(setting.key)) for setting in SETTINGS],
        judged=config.gate.enabled,
        deployed=config.deployment.auto_deploy,
    )
    return HTMLResponse(page, headers=_HEADERS)


@router.get(PAGE + "/{file}")
def page_file(request: Request, file: UiFile) -> FileResponse:
    path = UI / file.value
    return FileResponse(path, media_type=_TYPES[path.suffix], headers={**_HEADERS, "cache-control": "no-cache"})


def _facts(service: Service, config: FineTuningConfig) -> dict[str, object]:
    """Return the data for the light page's script: defaults of the form, and what there is to learn."""
    few, handbook = config.with_profile(FEW_SHOT), laid_below(config, HANDBOOK)
    return {
        "base": config.training.base_model,
        "defaults": values_of(config),
        "handbook": {"values": values_of(handbook)},  # used automatically for documents: see profiles.py
        "few": {"profile": FEW_SHOT, "values": values_of(few), "least": learning.least_turns(config)},
        "enough": config.training.min_pairs,
        "chats": _chats(service, config),
        "titles": learning.TITLES,
    }


def _chats(service: Service, config: FineTuningConfig) -> dict[str, object]:
    """Return facts about the log: its number of turns, how many are new, and whether most come from documents.

    If the log cannot be read, "trouble" says why.
    """
    try:
        log = service.log()
        turns, new = log.index.count(), count_new(config, log, service.registry)
        handbook = document_profile(turns, made_of_documents(log)) == HANDBOOK
        return {"turns": turns, "new": new, "handbook": handbook, "trouble": ""}
    except ByoaiError as error:
        return {"turns": 0, "new": 0, "handbook": False, "trouble": str(error)}
