"""Structured logs: one JSON object a line, or readable lines on a terminal."""

import logging
import sys
from typing import Literal

import structlog

from app import fault_points


def configure_logs(shape: Literal["json", "console"], *, process: str) -> None:
    """Sets up structlog for this process, and the libraries' loggers at warning level."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False) if shape == "json" else structlog.dev.ConsoleRenderer()
    )

    def add_process(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {"process": process, **event}

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_process,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    if fault_points.armed is not None:
        structlog.get_logger().warning(
            "fault_point_armed",
            point=fault_points.armed.point,
            fault=fault_points.armed.fault,
            remedy=f"This process is made to fail. Unset {fault_points.VARIABLE}.",
        )
