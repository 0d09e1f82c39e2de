"""What docker-compose.yml promises, read off the file: no Docker engine is needed."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from app.allocator_environment import ALLOCATOR_ENVIRONMENT
from app.settings import Settings
from tests.fixtures.compose import COMPOSE_FILE, DOT_ENV, VariableMissing, read_compose, read_dockerfile, seconds

SERVICES = read_compose()["services"]
LASTING = sorted(set(SERVICES) - {"migrate", "models"})
GPU = ("answerer", "worker")


def test_the_compose_specification_s_schema_accepts_it() -> None:
    checker = Path(sys.executable).parent / "check-jsonschema"
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_schema_accepts_it_with_every_variable_filled_in(tmp_path: Path) -> None:
    checker = Path(sys.executable).parent / "check-jsonschema"
    filled = tmp_path / "docker-compose.yml"
    filled.write_text(yaml.safe_dump(read_compose()))
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", filled], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_it_has_the_services_of_the_design() -> None:
    assert set(SERVICES) == {"db", "redis", "migrate", "api", "answerer", "worker", "models"}
    assert [name for name, service in SERVICES.items() if service.get("profiles")] == ["models"]


@pytest.mark.parametrize("name", sorted(DOT_ENV))
def test_a_missing_variable_of_dot_env_is_named_with_what_to_do(name: str) -> None:
    with pytest.raises(VariableMissing, match=rf"set {name} in \.env"):
        read_compose({other: value for other, value in DOT_ENV.items() if other != name})


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["init"] is True
    assert service["read_only"] is True
    assert any(place.startswith("/tmp") for place in service["tmpfs"])
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    user, group = service["user"].split(":")
    assert int(user) > 0
    assert int(group) > 0


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_has_limits_of_time_memory_processes_and_logs(name: str) -> None:
    service = SERVICES[name]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert service["stop_grace_period"]


@pytest.mark.parametrize("name", LASTING)
def test_a_lasting_service_has_a_health_check_and_starts_again(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_only_the_api_is_published_and_on_loopback_alone() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "api": ["127.0.0.1:8000:8000"]
    }


def test_only_the_api_and_the_importer_have_a_way_out() -> None:
    assert read_compose()["networks"]["inside"] == {"internal": True}
    assert sorted(name for name, service in SERVICES.items() if "outside" in service["networks"]) == ["api", "models"]


def test_the_answerer_is_given_neither_database_nor_broker() -> None:
    assert not {"DIANDA_DATABASE_URL", "DIANDA_BROKER_URL", "HF_TOKEN"} & set(SERVICES["answerer"]["environment"])


def test_the_answerer_gets_the_allocators_that_training_gets() -> None:
    assert ALLOCATOR_ENVIRONMENT.items() <= SERVICES["answerer"]["environment"].items()


@pytest.mark.parametrize("name", GPU)
def test_a_service_on_the_card_has_its_devices_and_numeric_groups(name: str) -> None:
    service = SERVICES[name]
    assert service["devices"] == ["/dev/kfd", "/dev/dri"]
    assert service["group_add"] == [int(DOT_ENV["VIDEO_GID"]), int(DOT_ENV["RENDER_GID"])]
    assert service["environment"]["ROCR_VISIBLE_DEVICES"] == 0
    assert "HSA_OVERRIDE_GFX_VERSION" not in service["environment"]


def test_a_stopped_worker_has_longer_than_a_training_process_may_take_to_save() -> None:
    assert seconds(SERVICES["worker"]["stop_grace_period"]) > Settings().stop_grace_s + 30


def test_the_api_waits_for_the_schema_and_the_broker() -> None:
    assert SERVICES["api"]["depends_on"] == {
        "migrate": {"condition": "service_completed_successfully"},
        "redis": {"condition": "service_healthy"},
    }


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_setting_of_a_service_exists(name: str) -> None:
    # Read by the engine itself, below the settings.
    engine_s = {"dianda_legacy_torch"}
    known = {f"dianda_{field}" for field in Settings.model_fields} | engine_s
    given = {key.lower() for key in SERVICES[name].get("environment", {}) if key.startswith("DIANDA_")}
    assert given <= known


def test_every_volume_is_declared_and_used() -> None:
    declared = set(read_compose()["volumes"])
    used = {mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])}
    assert used - {"./models-in"} == declared


def test_images_and_bases_are_pinned_and_can_be_exchanged() -> None:
    text = COMPOSE_FILE.read_text()
    for name in ("POSTGRES_IMAGE", "REDIS_IMAGE", "PYTHON_IMAGE", "ROCM_IMAGE"):
        assert f"${{{name}:" in text
    images = [SERVICES["db"]["image"], SERVICES["redis"]["image"], *read_dockerfile()[0].values()]
    for image in images:
        tag = image.partition(":")[2]
        assert any(char.isdigit() for char in tag) and "latest" not in tag, image
