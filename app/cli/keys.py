"""`dianda key`: an operator on the host makes, lists and ends API keys in the database itself, with no key of their own."""

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.text import Text
from sqlalchemy.orm import Session

from app.access import repository, service
from app.access.callers import Caller
from app.access.models import ApiKey
from app.access.scopes import Scope
from app.cli.client import ApiError
from app.cli.terminal import REFUSED, JsonOption, Terminal, table
from app.db.engine import make_engine
from app.db.migrating import is_current
from app.db.outage import DATABASE_AWAY
from app.db.unit_of_work import unit_of_work
from app.errors import AppError
from app.settings import Settings

keys_cli = typer.Typer(no_args_is_help=True, help="API keys and the log of admin acts, in the database of DIANDA_DATABASE_URL.")
_MOST = 10_000


def access_banner(settings: Settings) -> Text:
    """Returns what `dianda up` says of who may come in."""
    if settings.asks_for_keys:
        return Text("API keys are asked for. Make one with: dianda key create NAME --scope admin")
    loud = "NO API KEYS ARE ASKED FOR: whoever reaches this address may do everything."
    return Text(f"{loud} Keep it on loopback, or set DIANDA_AUTH=on.", style="bold yellow")


@keys_cli.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what will hold it, such as crm-app; histories show it.")],
    scope: Annotated[Scope, typer.Option(help="answer: ask. train: also train and evaluate. admin: everything.")],
    days: Annotated[float | None, typer.Option(min=0.001, max=36500, help="Until it ends by itself.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, max=10_000_000, help="Of one API process.")] = None,
    max_concurrent: Annotated[int | None, typer.Option(min=1, max=100_000, help="Requests at once of one API process.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Makes a key and prints it, this once."""
    terminal = Terminal(as_json=as_json)
    wish = service.KeyWish(name, scope, days, requests_per_minute, max_concurrent)
    with _database(terminal) as session:
        created = service.create(session, wish, _operator())
    terminal.result({**_facts(created.key), "secret": created.secret}, Text(created.secret))
    terminal.say(f"The key {name} ({scope.value}) is in force. It is kept nowhere: put it where its holder finds it.")


@keys_cli.command("list")
def list_keys(as_json: JsonOption = False) -> None:
    """Lists keys without their secrets, revoked ones too."""
    terminal = Terminal(as_json=as_json)
    with _database(terminal) as session:
        keys = repository.list_all(session, limit=_MOST)
    rows = [
        (key.id, key.name, f"{key.prefix}…", key.scope, _day(key.created_at), _day(key.expires_at), _day(key.revoked_at))
        for key in keys
    ]
    columns = ("id", "name", "key", "scope", "made", "ends", "revoked")
    terminal.result({"object": "list", "data": [_facts(key) for key in keys]}, table(columns, rows))


@keys_cli.command()
def revoke(
    which: Annotated[str, typer.Argument(help="Its id, its name while in force, or its first characters as `list` shows them.")],
    as_json: JsonOption = False,
) -> None:
    """Ends a key for good; every API process knows within a second."""
    terminal = Terminal(as_json=as_json)
    with _database(terminal) as session:
        key = service.revoke(session, which.rstrip("…"), _operator())
    terminal.result(_facts(key))
    terminal.say(f"The key {key.name} ({key.id}) is revoked.")


@keys_cli.command()
def log(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most acts.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Lists admin acts, the newest first: who, when, what, to what."""
    terminal = Terminal(as_json=as_json)
    with _database(terminal) as session:
        acts = repository.audit_page(session, before=None, limit=limit)
    data = [
        {"number": one.number, "created_at": int(one.created_at), "actor": one.actor, "act": one.act, "target": one.target}
        | {"key_id": one.key_id, "details": one.details, "request_id": one.request_id}
        for one in acts
    ]
    rows = [(_moment(one.created_at), one.actor, one.act, one.target, one.details or "") for one in acts]
    terminal.result({"object": "list", "data": data}, table(("when", "who", "act", "what", "details"), rows))


@contextmanager
def _database(terminal: Terminal) -> Iterator[Session]:
    engine = make_engine(Settings().resolved_database_url)
    try:
        if not is_current(engine):
            raise ApiError("The database's schema is not this version's. Run: dianda migrate")
        with unit_of_work(engine) as session:
            yield session
    except DATABASE_AWAY as error:
        terminal.fail(ApiError("The database does not answer. Is DIANDA_DATABASE_URL the product's?"))
        raise typer.Exit(REFUSED) from error
    except (AppError, ApiError) as error:
        terminal.fail(error if isinstance(error, ApiError) else ApiError(error.message, code=error.code, param=error.param))
        raise typer.Exit(REFUSED) from error
    finally:
        engine.dispose()


def _operator() -> Caller:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container's numeric user has no name.
        user = "unknown"
    return Caller(f"operator:{user}", Scope.ADMIN)


def _facts(key: ApiKey) -> dict[str, Any]:
    whole = {"created_at": key.created_at, "expires_at": key.expires_at, "revoked_at": key.revoked_at}
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "scope": key.scope,
        "requests_per_minute": key.requests_per_minute,
        "max_concurrent": key.max_concurrent,
        **{name: None if moment is None else int(moment) for name, moment in whole.items()},
    }


def _day(moment: float | None) -> str:
    return "" if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


def _moment(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
