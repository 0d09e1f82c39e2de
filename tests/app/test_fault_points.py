import errno

import pytest
import structlog

from app import fault_points
from app.fault_points import ArmedFault, reach, read_fault
from app.logs import configure_logs


def test_no_fault_is_armed_where_the_variable_is_not_set() -> None:
    assert fault_points.armed is None
    assert read_fault("") is None


@pytest.mark.parametrize("text", ["after_clam:kill", "after_claim:kil", "after_claim", "kill", ":"])
def test_a_misspelt_fault_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"after_claim.*kill, stall, enospc"):
        read_fault(text)


def test_only_the_armed_point_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault_points, "armed", ArmedFault("before_rename", "enospc"))
    reach("after_rename")
    with pytest.raises(OSError, match="No space left") as raised:
        reach("before_rename")
    assert raised.value.errno == errno.ENOSPC


def test_an_armed_process_says_so_loudly(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fault_points, "armed", ArmedFault("after_claim", "kill"))
    configure_logs("json", process="worker")
    structlog.reset_defaults()
    said = capfd.readouterr().err
    assert '"level": "warning"' in said and "fault_point_armed" in said and "Unset DIANDA_FAULT_POINT" in said
