"""Renders the templates: what every page has around its own content, and the page of an error."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse

from app.access.callers import ANYBODY, Caller
from app.access.scopes import Scope
from app.console import figures
from app.console.drawing import draw
from app.console.forms import field_of
from app.console.static_files import StaticFiles
from app.console.visit import TOKEN_FIELD, Visit
from app.errors import AppError
from app.http.errors import status_of

_TEMPLATES = Path(__file__).parent / "templates"
# A page names its section; the catalogue names it `nav.<section>`.
SECTIONS: Mapping[str, str] = {
    "overview": "/",
    "datasets": "/console/datasets",
    "jobs": "/console/jobs",
    "evaluations": "/console/evaluations",
    "experiments": "/console/experiments",
    "models": "/console/models",
    "codebook": "/console/codebook",
    "ask": "/console/ask",
    "answers": "/console/answers",
}


@dataclass(frozen=True)
class Notice:
    """An error beside the form that caused it."""

    message: str
    param: str | None = None
    details: Mapping[str, Any] | None = None
    code: str = ""

    @classmethod
    def of(cls, error: AppError) -> "Notice":
        """Builds the notice of an error."""
        return cls(error.message, error.param, error.details, error.code)


class _Missing(StrictUndefined):
    """A value that a template may ask about, but not print: a form's empty field, a job's progress before its first step."""

    def __bool__(self) -> bool:  # type: ignore[override]  # the class above says that each of these raises
        return False

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        return False

    def __ne__(self, other: object) -> bool:  # type: ignore[override]
        return True

    __hash__ = None  # type: ignore[assignment]


class Pages:
    """The templates of one process."""

    def __init__(self, files: StaticFiles) -> None:
        self._files = files
        self._environment = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=_Missing,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "count": figures.count,
            "percent": figures.percent,
            "decimal": figures.decimal,
            "size": figures.size,
            "iso": figures.iso,
        }
        self._environment.globals |= {"static": files.url, "draw": draw, "token_field": TOKEN_FIELD}

    def render(self, request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
        """Renders a page for the request's visitor."""
        visit: Visit = request.state.visit
        caller: Caller | None = request.state.caller
        words = visit.words
        html = self._environment.get_template(template).render(
            t=words,
            lang=words.language,
            theme=visit.theme,
            form_token=visit.token,
            sections=_sections_of(caller),
            caller=caller,
            is_open=caller is ANYBODY,
            is_admin=caller is not None and caller.scope.includes(Scope.ADMIN),
            here=lambda **query: str(request.url.include_query_params(**query).replace(scheme="", netloc="")),
            done=request.query_params.get("done", ""),
            ago=partial(figures.ago, words=words),
            duration=partial(figures.duration, words=words),
            fresh_key=secrets.token_urlsafe,
            **context,
        )
        return HTMLResponse(html, status_code=status)

    def error(self, request: Request, error: AppError) -> HTMLResponse:
        """Renders an error as a page of its own."""
        return self.render(request, "error.html", status=status_of(error), section="", notice=Notice.of(error), kind=error.kind)


def _sections_of(caller: Caller | None) -> Mapping[str, str]:
    if caller is None:
        return {}
    return SECTIONS if caller.scope.includes(Scope.TRAIN) else {"ask": SECTIONS["ask"]}


def at_form(error: AppError | None) -> dict[str, Any]:
    """Returns what `render` needs to say an error at the form that caused it, or that there is none."""
    if error is None:
        return {"notice": None, "wrong_field": "", "status": 200}
    return {"notice": Notice.of(error), "wrong_field": field_of(error.param), "status": status_of(error)}


def see(address: str, *, done: str = "") -> RedirectResponse:
    """Sends the browser from a form to the page that shows its effect; `done` names the catalogue's word for it."""
    return RedirectResponse(f"{address}{'&' if '?' in address else '?'}done={done}" if done else address, status_code=303)
