"""Ask: a question in, codes with their texts, confidences and alternatives out."""

from fastapi import APIRouter, Depends, Request
from starlette.responses import HTMLResponse

from app.answers.schemas import AnswerObject, AskOne
from app.answers.service import AnswerService
from app.console.choices import model_names
from app.console.forms import checked, filled, number, whole
from app.console.pages import Pages, at_form
from app.console.route import ConsoleRoute, FormDep
from app.db.unit_of_work import read_only
from app.errors import AppError
from app.http.dependencies import EngineDep, StoreDep

_ALTERNATIVES = 3


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
            **at_form(error),
        )

    @router.get("")
    async def ask_form(request: Request, model: str = "", known: dict[str, list[str]] = Depends(names)) -> HTMLResponse:
        """Shows the form."""
        return show(request, filled({"model": model[:110]}), known)

    @router.post("")
    async def ask(request: Request, form: FormDep, known: dict[str, list[str]] = Depends(names)) -> HTMLResponse:
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
