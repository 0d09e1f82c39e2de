"""One visitor's request: language, theme and form token, taken from the address, the cookies and the browser."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from app.console.words import LANGUAGES, Words, choose_language
from app.errors import InvalidInput

THEMES = ("auto", "light", "dark")
TOKEN_FIELD = "form_token"  # noqa: S105  # the name of a field
_LANGUAGE_COOKIE, _THEME_COOKIE, _TOKEN_COOKIE = "dianda_lang", "dianda_theme", "dianda_form"
_YEAR_S = 365 * 86_400
_MIN_TOKEN_CHARS, _MAX_TOKEN_CHARS = 32, 64


class StaleForm(InvalidInput):
    """A form was not sent from a page of ours, or from one whose cookie is gone."""

    code = "stale_form"


@dataclass(frozen=True)
class Visit:
    """What a page must know of its visitor."""

    words: Words
    theme: str
    token: str
    """Stands in every form and in a cookie of the same site; another site can read neither."""
    new_cookies: Mapping[str, str]

    @classmethod
    def of(cls, request: Request) -> "Visit":
        """Reads a request."""
        cookies, wished = request.cookies, request.query_params
        language = choose_language(wished.get("lang"), cookies.get(_LANGUAGE_COOKIE), request.headers.get("accept-language", ""))
        theme = next((one for one in (wished.get("theme"), cookies.get(_THEME_COOKIE)) if one in THEMES), THEMES[0])
        token = cookies.get(_TOKEN_COOKIE, "")
        new: dict[str, str] = {}
        if not _MIN_TOKEN_CHARS <= len(token) <= _MAX_TOKEN_CHARS:
            token = new[_TOKEN_COOKIE] = secrets.token_urlsafe(32)
        if wished.get("lang") in LANGUAGES:
            new[_LANGUAGE_COOKIE] = language
        if wished.get("theme") in THEMES:
            new[_THEME_COOKIE] = theme
        return cls(Words(language), theme, token, new)

    async def check_form(self, request: Request) -> None:
        """Refuses a form that another site sent.

        Raises:
            StaleForm: its token is not the cookie's.
        """
        form = await request.form(max_files=1, max_fields=100)
        given = form.get(TOKEN_FIELD)
        is_ours = isinstance(given, str) and _TOKEN_COOKIE not in self.new_cookies
        if request.headers.get("sec-fetch-site") == "cross-site" or not is_ours or not _equal(str(given), self.token):
            raise StaleForm("This form is out of date. Reload its page and send it again.")

    def remember(self, request: Request, response: Response) -> None:
        """Sets the cookies that are new."""
        for name, value in self.new_cookies.items():
            response.set_cookie(
                name,
                value,
                max_age=None if name == _TOKEN_COOKIE else _YEAR_S,
                httponly=True,
                samesite="lax",
                secure=request.url.scheme == "https",
            )


def words_of(request: Request) -> Words:
    """Returns the words of a guarded request's visitor."""
    visit: Visit = request.state.visit
    return visit.words


def _equal(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode())
