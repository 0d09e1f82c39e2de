"""Ask: a question in, codes with their texts, confidences and alternatives out."""

from fastapi import APIRouter, Depends, Request
from starlette.datastructures import FormData
from starlette.responses import HTMLResponse

from app.answers.schemas import AnswerObject, AskOne
from app.answers.service import AnswerService
from app.console.choices import model_names
from app.console.forms import checked, field_of, filled, number, whole
from app.console.pages import Notice, Pages
from app.console.route import ConsoleRoute
from app.db.unit_of_work import read_only
from app.errors import AppError
from app.http.dependencies import EngineDep, StoreDep
from app.http.errors import status_of

_ALTERNATIVES = 3


async def _form(request: Request) -> FormData:
    return await request.form()


def make_router(pages: Pages, *, default_model: str, max_question_chars: int) -> APIRouter:
    """Builds the routes."""
    router = APIRouter(prefix="/console/ask", include_in_schema=False, route_class=ConsoleRoute)

    def names(engine: EngineDep, store: StoreDep) -> dict[str, list[str]]:
        # Closed before the question is asked: an answer may take seconds.
        with read_only(engine) as session:
            return model_names(session, store)

    def show(
        request: Request,
        values: dict[str, str],
        known: dict[str, list[str]],
        *,
        answer: AnswerObject | None = None,
        error: AppError | None = None,
    ) -> HTMLResponse:
        first = next((kind[0] for kind in (known["alias"], known["adapter"]) if kind), default_model)
        return pages.render(
            request,
            "ask.html",
            section="ask",
            values={"model": first, "alternatives": str(_ALTERNATIVES), **values},
            names=known,
            max_question_chars=max_question_chars,
            answer=answer,
            notice=None if error is None else Notice.of(error),
            wrong_field="" if error is None else field_of(error.param),
            status=200 if error is None else status_of(error),
        )

    @router.get("")
    async def ask_form(request: Request, model: str = "", known: dict[str, list[str]] = Depends(names)) -> HTMLResponse:
        """Shows the form."""
        return show(request, filled({"model": model[:110]}), known)

    @router.post("")
    async def ask(
        request: Request, known: dict[str, list[str]] = Depends(names), form: FormData = Depends(_form)
    ) -> HTMLResponse:
        """Answers and shows the answer under the form; what is wrong is said at the form."""
        values = filled(form)
        service: AnswerService = request.app.state.answers
        try:
            wishes = {
                "question": values.get("question", ""),
                "model": values.get("model"),
                "alternatives": whole(values, "alternatives", default=_ALTERNATIVES),
                "threshold": number(values, "threshold"),
                "precision": number(values, "precision"),
                "mode": values.get("mode", "closed"),
            }
            body = checked(AskOne, {name: value for name, value in wishes.items() if value is not None})
            (answered,) = await service.answer([body.question], param="question", model=body.model, wishes=body)
        except AppError as error:
            return show(request, values, known, error=error)
        return show(request, values, known, answer=answered.answer)

    return router
