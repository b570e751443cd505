"""The names users import, and what importing them costs."""

import subprocess
import sys

import octavo

PUBLIC = {
    *"ClassificationOutput ClassificationRequestOutput EmbeddingOutput EmbeddingRequestOutput PoolingOutput".split(),
    *"PoolingParams PoolingRequestOutput ScoringOutput ScoringRequestOutput".split(),
    "BeamSearchParams", "RepetitionDetectionParams",
    "AsyncLLM", "CompletionOutput", "EngineConfig", "LLM", "Logprob", "OctavoError", "RequestOutput",
    "RequestOutputKind", "SamplingParams", "StructuredOutputsParams", "TextPrompt", "TokensPrompt", "__version__",
}  # fmt: skip


def test_the_public_names_are_exactly_these():
    assert set(octavo.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(octavo, name) is not None


def test_every_public_name_is_documented():
    for name in PUBLIC - {"__version__"}:
        assert getattr(octavo, name).__doc__, name


def loaded_by(statement: str) -> set[str]:
    code = (
        f"{statement}\nimport sys; print(' '.join(m for m in ('torch', 'transformers', 'fastapi') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_frontend_does_not_import_torch_or_transformers():
    assert loaded_by("from octavo import LLM, AsyncLLM, SamplingParams, RequestOutput") == set()


def test_the_command_line_does_not_import_torch():
    assert "torch" not in loaded_by("from octavo.cli.main import command_parser; command_parser('serve').format_help()")
