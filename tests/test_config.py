"""Flat options become frozen configs; every mistake is one line that names the option."""

import pytest

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
        ("trust_remote_code", True), ("steps_in_flight", 0),
    ],
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused_naming_the_option(option, value):
    with pytest.raises(StartupError) as error:
        EngineConfig.of(**{option: value})
    assert error.value.field == option and option in error.value.message and "\n" not in error.value.message


def test_an_unknown_option_suggests_the_nearest():
    with pytest.raises(StartupError, match="did you mean max_model_len"):
        EngineConfig.of(max_modle_len=5)
