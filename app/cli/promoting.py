"""`dianda promote` and `dianda aliases`: which adapter answers, under which gate, tried out how, and who changed it."""

import getpass
from typing import Annotated, Any

import typer
from rich.table import Table

from app.cli.client import ApiClient, ApiError
from app.cli.evaluating import wait_for_evaluation
from app.cli.files import file_id_of
from app.cli.terminal import JsonOption, Terminal, UrlOption, facts, table, talking

aliases_cli = typer.Typer(no_args_is_help=True, help="Aliases: where they point, what they try out, their history.")
AliasArgument = Annotated[str, typer.Argument(help="For example telecom@production.")]
ReasonOption = Annotated[str | None, typer.Option(help="Why; kept in the history.")]
ByOption = Annotated[str | None, typer.Option(help="Who; none: the name of this user on this machine.")]
# Each of the two adapters may lack its evaluation, or have one under way.
_MOST_EVALUATIONS = 4


def promote(
    alias: AliasArgument,
    to: Annotated[str | None, typer.Argument(help="An adapter (telecom:2), previous, or candidate.")] = None,
    gate: Annotated[
        str | None, typer.Option(help="Frozen test file (path, name or id) on which it must not be worse; or none.")
    ] = None,
    metric: Annotated[str, typer.Option(help="What the gate compares: exact_match or set_f1.")] = "exact_match",
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Post the evaluations that the gate needs, and wait.")] = False,
    candidate: Annotated[str | None, typer.Option(help="Try this adapter out beside the alias's own.")] = None,
    percent: Annotated[float | None, typer.Option(help="Share of askers that the candidate answers.")] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="The candidate answers beside, for the log alone.")] = False,
    expected: Annotated[
        str | None, typer.Option(help="Where the alias points as far as you know, or none; else refused.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Against the gate; needs --reason.")] = False,
    reason: ReasonOption = None,
    by: ByOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Points an alias to an adapter, back to the previous one, or lets it try a candidate out.

    dianda promote telecom@production telecom:2 --gate telecom_test_500.json --evaluate
    """
    with talking(url, as_json=as_json) as (client, terminal):
        asked: dict[str, Any] = {"to": to, "expected": expected, "reason": reason, "by": by or _user()}
        body = {name: value for name, value in asked.items() if value is not None}
        if force:
            body["force"] = True
        if gate == "none":
            body["gate"] = gate
        elif gate is not None:
            body["gate"] = {"file": file_id_of(client, terminal, gate, purpose="evals"), "metric": metric}
        if candidate is not None:
            trial = {"model": candidate, "mode": "shadow" if shadow else "share", "percent": percent}
            body["candidate"] = {name: value for name, value in trial.items() if value is not None}
        changed = _put(client, terminal, f"/v1/aliases/{alias}", body, evaluates=evaluate)
        terminal.result(changed, _alias_facts(changed))


@aliases_cli.command("list")
def list_aliases(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Lists aliases: where each points, its gate, and what it tries out."""
    with talking(url, as_json=as_json) as (client, terminal):
        aliases: list[dict[str, Any]] = []
        has_more = True
        while has_more:
            page = client.get("/v1/aliases", after=aliases[-1]["name"] if aliases else None)
            aliases += page["data"]
            has_more = page["has_more"]
        rows = [(one["name"], one["model"], _gate(one["gate"]), _trial(one["candidate"])) for one in aliases]
        terminal.result({"object": "list", "data": aliases}, table(("alias", "adapter", "gate", "tries out"), rows))


@aliases_cli.command()
def history(
    alias: AliasArgument,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most changes.")] = 20,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Shows the changes of an alias, newest first: who, from where to where, why, by which numbers."""
    with talking(url, as_json=as_json) as (client, terminal):
        moves = client.get(f"/v1/aliases/{alias}/history", limit=limit)
        terminal.result(moves, _history_table(moves["data"]))


@aliases_cli.command()
def trial(alias: AliasArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Shows how an alias's candidate does beside its own adapter."""
    with talking(url, as_json=as_json) as (client, terminal):
        report = client.get(f"/v1/aliases/{alias}/candidate")
        terminal.result(report, *_trial_tables(report))


@aliases_cli.command("end-trial")
def end_trial(
    alias: AliasArgument, reason: ReasonOption = None, by: ByOption = None, url: UrlOption = None, as_json: JsonOption = False
) -> None:
    """Ends a trial: the alias's own adapter answers everybody again."""
    with talking(url, as_json=as_json) as (client, terminal):
        changed = client.delete(f"/v1/aliases/{alias}/candidate", reason=reason, by=by or _user())
        terminal.result(changed, _alias_facts(changed))


@aliases_cli.command()
def delete(
    alias: AliasArgument, reason: ReasonOption = None, by: ByOption = None, url: UrlOption = None, as_json: JsonOption = False
) -> None:
    """Deletes an alias; its history stays."""
    with talking(url, as_json=as_json) as (client, terminal):
        terminal.result(client.delete(f"/v1/aliases/{alias}", reason=reason, by=by or _user()), f"{alias} is deleted.")


def _put(client: ApiClient, terminal: Terminal, path: str, body: dict[str, Any], *, evaluates: bool) -> dict[str, Any]:
    for _ in range(_MOST_EVALUATIONS):
        try:
            return client.put(path, body)
        except ApiError as error:
            if error.code != "evaluation_missing" or "missing" not in error.details:
                raise
            if not evaluates:
                raise ApiError(
                    f"{error} Or let --evaluate do it.", code=error.code, param=error.param, details=error.details
                ) from error
            under_way = error.details["under_way"]
            evaluation = (
                client.post("/v1/evaluations", error.details["missing"])
                if under_way is None
                else client.get(f"/v1/evaluations/{under_way}")
            )
            wait_for_evaluation(client, terminal, evaluation)
    return client.put(path, body)


def _user() -> str | None:
    try:
        return getpass.getuser()[:100] or None
    except (KeyError, OSError):
        # A container's user may have no name.
        return None


def _gate(gate: dict[str, Any] | None) -> str | None:
    return None if gate is None else f"{gate['metric']} on {gate['file']}"


def _trial(candidate: dict[str, Any] | None) -> str | None:
    return None if candidate is None else f"{candidate['model']}: {candidate['mode']}, {candidate['percent']:g} %"


def _alias_facts(alias: dict[str, Any]) -> Table:
    promotion = alias["promotion"] or {}
    shown: dict[str, object] = {"adapter": alias["model"], "gate": _gate(alias["gate"]), "tries out": _trial(alias["candidate"])}
    if promotion:
        shown |= {
            "was": promotion["from_model"],
            "verdict": _verdict(promotion["gate"]),
            "forced": "yes" if promotion["forced"] else None,
            "loaded before it moved": "yes" if promotion["loaded"] else "no",
        }
    return facts(shown, title=alias["name"])


def _verdict(gate: dict[str, Any] | None) -> str | None:
    if gate is None:
        return None
    if "rows" not in gate:
        return str(gate["verdict"])
    numbers = f"{gate['metric']} {gate['candidate']:.3f} against {gate['baseline']:.3f} on {gate['rows']} rows"
    return f"{gate['verdict']}: {numbers}"


def _history_table(moves: list[dict[str, Any]]) -> Table:
    rows = []
    for move in moves:
        why = " · ".join(part for part in (move["reason"], _verdict(move["gate"]), "forced" if move["forced"] else None) if part)
        if (trial := move["candidate"]) is not None:
            why = " · ".join(part for part in (f"{trial['mode']}, {trial['percent']:g} %", move["reason"]) if part)
        rows.append((move["number"], move["action"], move["from_model"], move["to_model"], move["by"], why))
    return table(("", "change", "from", "to", "by", "why"), rows)


def _trial_tables(report: dict[str, Any]) -> list[Table]:
    sides = (report["primary"], report["tried"])
    latencies = [side["latency_ms"] or {} for side in sides]

    def share(value: float | None) -> str | None:
        return None if value is None else f"{100 * value:.1f} %"

    rows = [
        ("answers", *(side["answers"] for side in sides)),
        ("handed over", *(share(side["fallback_rate"]) for side in sides)),
        ("p50, ms", *(latency.get("p50") for latency in latencies)),
        ("p95, ms", *(latency.get("p95") for latency in latencies)),
    ]
    both = report["both"]
    agreement = {
        "answered by both": both["answers"],
        "same codes": None if both["agreement"] is None else f"{both['same_codes']} ({share(both['agreement'])})",
    }
    title = f"{report['alias']} tries out {_trial(report['candidate'])}"
    return [table(("", *(side["model"] for side in sides)), rows, title=title), facts(agreement)]
