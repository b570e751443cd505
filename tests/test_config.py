"""Flat options become frozen configs; every mistake is one line that names the option."""

from pathlib import Path

import pytest

from octavo.cli.flags import number
from octavo.config import EngineConfig
from octavo.errors import StartupError


def test_vllm_users_options_are_understood():
    config = EngineConfig.of(model="m", tensor_parallel_size=1, gpu_memory_utilization=0.9, max_model_len=16384)
    assert config.model.model == "m" and config.model.max_model_len == 16384
    assert config.cache.gpu_memory_utilization == 0.9


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dtype", "float8"), ("scheduling_policy", "random"), ("max_model_len", 0), ("max_model_len", 1.5),
        ("block_size", 0), ("block_size", 4096), ("max_num_seqs", -1), ("gpu_memory_utilization", 1.5),
        ("gpu_memory_utilization", 0), ("tensor_parallel_size", 2), ("pipeline_parallel_size", 2),
        ("trust_remote_code", True), ("steps_in_flight", 0), ("seed", "abc"), ("seed", 1.5),
        ("enable_prefix_caching", "no"), ("quantization", "int3"), ("kv_cache_dtype", "int4"),
        ("int4_activations", "float32"), ("cpu_threads", 0), ("cpu_threads", "all"), ("load_format", "pt"),
        ("model", 5), ("device", 5), ("revision", 5),
    ],
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused_naming_the_option(option, value):
    with pytest.raises(StartupError) as error:
        EngineConfig.of(**{option: value})
    assert error.value.field == option and option in error.value.message and "\n" not in error.value.message


def test_an_unknown_option_suggests_the_nearest():
    with pytest.raises(StartupError, match="did you mean max_model_len"):
        EngineConfig.of(max_modle_len=5)


def test_a_number_is_read_as_people_and_vllm_write_it():
    spelled = {
        "5": 5,
        "16k": 16_000,
        "32K": 32_768,
        "1.5k": 1500,
        "2M": 2 * 2**20,
        "2m": 2_000_000,
        "4GiB": 4 * 2**30,
        "4GB": 4 * 10**9,
        "1_000": 1000,
    }
    assert {text: number(text) for text in spelled} == spelled


@pytest.mark.parametrize("text", ["", "k", "1.5", "infk", "nan", "5x"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError):
        number(text)


def test_the_longest_context_may_be_left_to_the_machine_by_name():
    for spelled in (-1, "auto", None):
        assert EngineConfig.of(max_model_len=spelled).model.max_model_len is None
    assert number("auto") == number("-1") == -1


def test_a_folder_may_be_a_path():
    assert EngineConfig.of(model=Path("/some/where")).model.model == "/some/where"


def test_limits_are_changed_by_name_and_wrong_ones_are_named(tmp_path):
    file = tmp_path / "limits.json"
    file.write_text('{"n": 5}')
    for given in ("n=5", ["n=5"], {"n": 5}, str(file), [str(file), "logprobs=20"]):
        assert EngineConfig.of(limits=given).limits.n == 5
    assert EngineConfig.of(limits=None).limits == EngineConfig().limits
    assert EngineConfig.of(limits="body_bytes=8_388_608,logprobs=0").limits.body_bytes == 2**23
    file.write_text("[1]")
    for given, word in (
        ("n=0", "n must be an integer"),
        ("n=99999999", "16384"),
        ("n=many", "'many'"),
        ("logprob=3", "did you mean logprobs"),
        ("/no/limits.json", "No such file"),
        (str(file), "one object"),
        ({"n": True}, "n must be an integer"),
    ):
        with pytest.raises(StartupError, match=word) as error:
            EngineConfig.of(limits=given)
        assert error.value.field == "limits" and "\n" not in error.value.message
