"""The review list: unsure answers first, one click or the right codes each; reviewed answers become a dataset's next version."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.access.dependencies import CallerDep
from app.answers import review_repository, reviews
from app.answers.review_schemas import CreateFromAnswers, GiveFeedback, ReviewItemObject
from app.answers.reviewed_file import store_reviewed
from app.console.choices import datasets_of, model_names
from app.console.forms import checked, filled
from app.console.pages import Pages, at_form, see
from app.console.route import ConsoleRoute, FormDep
from app.db.unit_of_work import read_only, unit_of_work
from app.errors import AppError
from app.http.dependencies import AfterParam, BlobsDep, EngineDep, StoreDep
from app.ml.model_store import ModelStore

_PREFIX = "/console/review"
_PAGE = 20


def make_router(pages: Pages, *, keeps_questions: bool) -> APIRouter:
    """Builds the routes; `keeps_questions`: whether the answer log holds the texts that a review needs."""
    router = APIRouter(prefix=_PREFIX, include_in_schema=False, route_class=ConsoleRoute)

    def show_list(
        request: Request,
        engine: EngineDep,
        store: ModelStore,
        values: dict[str, str],
        *,
        after: str | None = None,
        error: AppError | None = None,
    ) -> HTMLResponse:
        show = values.get("show", "open")
        wanted = review_repository.ReviewFilter(
            reviewed=show == "reviewed",
            model=values.get("model"),
            fallback=True if show == "handed_over" else None,
            disagreement=True if show == "disputed" else None,
        )
        with read_only(engine) as session:
            items, has_more = review_repository.list_page(session, wanted, after=after, limit=_PAGE)
            found = [ReviewItemObject.of(item) for item in items]
            names, files = model_names(session, store), datasets_of(session)
        return pages.render(
            request,
            "review.html",
            section="answers",
            items=found,
            names=names,
            files=files,
            values={"show": "open", **values},
            keeps_questions=keeps_questions,
            next_after=found[-1].id if has_more else None,
            is_first=after is None,
            **at_form(error),
        )

    @router.get("")
    def list_items(
        request: Request,
        engine: EngineDep,
        store: StoreDep,
        model: Annotated[str, Query(max_length=110)] = "",
        show: Annotated[str, Query(pattern="^(open|handed_over|disputed|reviewed)$")] = "open",
        reviewer: Annotated[str, Query(max_length=100)] = "",
        after: AfterParam = None,
    ) -> HTMLResponse:
        """Lists answers to look at, the least sure first."""
        values = filled({"model": model, "show": show, "reviewer": reviewer})
        return show_list(request, engine, store, values, after=after)

    @router.post("")
    def give_feedback(
        request: Request, caller: CallerDep, engine: EngineDep, store: StoreDep, blobs: BlobsDep, form: FormDep
    ) -> Response:
        """Keeps what a reviewer says of one answer, and shows the list again."""
        values = filled(form)
        kept: dict[str, str] = {name: values[name] for name in ("model", "show", "reviewer") if name in values}
        try:
            body = checked(GiveFeedback, _feedback(values))
            with unit_of_work(engine) as session:
                reviews.review(
                    session,
                    blobs,
                    values.get("answer", ""),
                    verdict=body.verdict,
                    codes=body.codes,
                    allow_unknown_codes=body.allow_unknown_codes,
                    reviewer=body.reviewer or caller.author(None),
                    comment=body.comment,
                )
        except AppError as error:
            return show_list(request, engine, store, {**kept, "answer": values.get("answer", "")}, error=error)
        return see(f"{_PREFIX}?{urlencode(kept)}" if kept else _PREFIX, done="reviewed")

    @router.post("/file")
    def make_file(
        request: Request,
        engine: EngineDep,
        blobs: BlobsDep,
        parent: Annotated[str, Form(max_length=64)] = "",
        filename: Annotated[str, Form(max_length=200)] = "",
    ) -> RedirectResponse:
        """Makes a dataset of what was reviewed."""
        body = checked(CreateFromAnswers, filled({"parent": parent, "filename": filename}))
        dataset = store_reviewed(body, engine=engine, blobs=blobs, uploads_dir=request.app.state.uploads_dir)
        return see(f"/console/datasets/{dataset.id}", done="made_of_answers")

    return router


def _feedback(values: dict[str, str]) -> dict[str, Any]:
    """Returns the body of `GiveFeedback` that a form asks for."""
    asked: dict[str, Any] = {name: values[name] for name in ("verdict", "reviewer", "comment") if name in values}
    if asked.get("verdict") == "corrected":
        codes = values.get("codes", "").replace("｜", "|")
        asked["codes"] = [code.strip() for code in codes.split("|") if code.strip()]
        asked["allow_unknown_codes"] = values.get("unknown") == "yes"
    return asked
