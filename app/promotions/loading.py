"""Adapters are in the answerer's memory before an alias points to them: no answer waits for weights."""

from collections.abc import Sequence

import structlog

from app.adapters.models import Adapter
from app.answers.service import AnswerService
from app.errors import AppError, Conflict, Unavailable

_log = structlog.get_logger()


class NotServable(Conflict):
    """What answers cannot use the adapter, so the alias would answer nobody."""

    code = "not_servable"


async def load_adapters(answers: AnswerService, adapters: Sequence[Adapter], *, is_forced: bool) -> bool:
    """Lets each adapter answer once and returns whether all did; an answerer that is away or busy stops nobody.

    Raises:
        NotServable: the answerer refuses an adapter, and the change is not forced.
    """
    is_loaded = True
    for adapter in adapters:
        try:
            await answers.rehearse(base_model=adapter.base_model, adapter_checksum=adapter.checksum)
        except Unavailable as error:
            _log.warning("adapter_not_loaded", adapter=adapter.id, code=error.code)
            is_loaded = False
        except AppError as error:
            if not is_forced:
                raise NotServable(
                    f"{adapter.id} cannot answer here: {error.message} Mend that, or send force: true with a reason.", param="to"
                ) from error
            is_loaded = False
    return is_loaded
