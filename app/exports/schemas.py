"""The export object of the HTTP dialect."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.exports.models import Export
from app.http.schemas import RequestBody, Text
from app.jobs.models import Job
from app.jobs.schemas import JobFailure
from app.ml.export_folders import ExportFormat


class CreateExport(RequestBody):
    """An adapter and the format to write it in."""

    model: Annotated[Text, Field(max_length=110, description="Adapter or alias.")]
    format: Annotated[
        ExportFormat,
        Field(
            description="`peft`: the adapter alone, loads in plain peft. `merged`: the whole model, loads in plain transformers. "
            "`gguf`: one file for llama.cpp, where the worker has its converter."
        ),
    ]

    model_config = RequestBody.model_config | {
        "json_schema_extra": {
            "examples": [{"model": "telecom:1", "format": "merged"}, {"model": "telecom@production", "format": "peft"}]
        }
    }


class ExportObject(BaseModel):
    """An export, with its size and checksum once it has succeeded."""

    id: str
    object: Literal["export"] = "export"
    created_at: int
    finished_at: int | None
    status: str
    model: str
    adapter: str | None
    base_model: str
    format: str
    job: str
    progress: dict[str, Any] | None
    """`step` of `total_steps`, in weights merged."""
    bytes: int | None
    """Of the files together; the content is a tar of them and a manifest, or the one file of a GGUF export."""
    checksum: str | None
    """Of the folder (see its manifest.json), or the SHA-256 of the file of a GGUF export."""
    error: JobFailure | None

    @classmethod
    def of(cls, export: Export, job: Job) -> "ExportObject":
        """Builds the object of the two rows."""
        return cls(
            id=export.id,
            created_at=int(export.created_at),
            finished_at=None if job.finished_at is None else int(job.finished_at),
            status=job.status,
            model=export.model,
            adapter=job.adapter_id,
            base_model=job.base_model,
            format=export.format,
            job=job.id,
            progress=job.progress,
            bytes=export.size_bytes,
            checksum=export.checksum,
            error=JobFailure.find(job),
        )
