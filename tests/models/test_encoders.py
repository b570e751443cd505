"""Embedding and classifying, on tiny random checkpoints of each family, against Transformers in float32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tokenizers import models, normalizers, pre_tokenizers, processors
from torch import Tensor

from octavo import LLM, PoolingParams, SamplingParams
from octavo.attention.bidirectional import BidirectionalAttention
from octavo.checkpoint import POCKET, Checkpoint
from octavo.embedder import Embedder
from octavo.errors import InvalidRequest, StartupError, UnsupportedModel
from octavo.forward import ForwardBatch, GroupInputs
from octavo.models.config import HFConfig
from octavo.models.encoder import EncoderModel
from octavo.models.registry import spec_for
from octavo.weights.source import open_source

CLOSE = 1e-5
LETTERS = [chr(97 + i) for i in range(26)]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS), "the", "##ing"]
TEXTS = ["the cat", "reading the news in the morning", "a", "what is the meaning of this", "zebra zoo zig zag", ""]
SMALL = {
    "vocab_size": len(VOCAB),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 300,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
RENAMED = ("vocab_size", "max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id")
LOCAL = {"local_attention": 16, "cls_token_id": 2, "sep_token_id": 3}
ENCODERS: dict[str, Mapping[str, object]] = {
    "Bert": {},
    "Roberta": {"pad_token_id": 1, "type_vocab_size": 1},
    "XLMRoberta": {"pad_token_id": 1, "type_vocab_size": 1, "hidden_act": "gelu_new"},
    "DistilBert": {"dim": 32, "hidden_dim": 48, "n_layers": 4, "n_heads": 4},
    "ModernBert": LOCAL,
}
DECODERS: dict[str, Mapping[str, object]] = {
    "Llama": {"num_key_value_heads": 2},
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 8},
}
LENGTHS = (5, 200, 1, 37)


def checkpoint(folder: Path, model: str, **options: object) -> torch.nn.Module:
    """Save a random model of Transformers with a tokenizer of letters, and return it."""
    torch.manual_seed(1)
    family = model.partition("For")[0].removesuffix("Model")
    known = {**ENCODERS, **DECODERS}[family]
    small = {name: SMALL[name] for name in RENAMED} if family == "DistilBert" else SMALL
    config = getattr(transformers, f"{family}Config")(**{**small, **known, **options})
    reference = getattr(transformers, model)(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    reference.save_pretrained(folder)
    write_tokenizer(folder, has_types=config.model_type in ("bert",))
    return reference


def write_tokenizer(folder: Path, has_types: bool) -> None:
    """A WordPiece tokenizer whose pairs look like BERT's, or with two separators like RoBERTa's."""
    backend = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(VOCAB)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(VOCAB[:5])
    pair = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1" if has_types else "[CLS]:0 $A:0 [SEP]:0 [SEP]:0 $B:0 [SEP]:0"
    ids = [("[CLS]", 2), ("[SEP]", 3)]
    backend.post_processor = processors.TemplateProcessing("[CLS]:0 $A:0 [SEP]:0", pair, ids)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names, mask_token="[MASK]")
    tokenizer.save_pretrained(folder)
    if has_types:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def opened(folder: Path, **options: object) -> LLM:
    return LLM(str(folder), dtype="float32", use_tqdm_on_load=False, **options)


def prompts() -> list[list[int]]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randint(5, len(VOCAB), (n,), generator=draw).tolist() for n in LENGTHS]


def states(reference: torch.nn.Module, ids: list[int]) -> Tensor:
    """The last hidden states [n, H] of one prompt."""
    body = getattr(reference, reference.base_model_prefix, reference)
    with torch.no_grad():
        return body(torch.tensor([ids])).last_hidden_state[0]


def values(output: object) -> np.ndarray:
    return np.asarray(output.outputs.data)


def far(ours: object, theirs: Tensor) -> float:
    return float(np.abs(np.asarray(ours) - theirs.detach().numpy()).max())


@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_embeds_texts_and_tokens_as_transformers_does(family: str, tmp_path: Path) -> None:
    reference = checkpoint(tmp_path, f"{family}Model")
    with opened(tmp_path) as llm:
        vectors = llm.embed(prompts(), PoolingParams(normalize=False), use_tqdm=False)
        units = llm.embed(prompts(), use_tqdm=False)
        tokens = llm.encode(prompts(), PoolingParams(use_activation=False), False, pooling_task="token_embed")
    for ids, vector, unit, each in zip(prompts(), vectors, units, tokens, strict=True):
        expected = states(reference, ids)
        assert far(each.outputs.data, expected) <= CLOSE
        assert far(vector.outputs.embedding, expected.mean(0)) <= CLOSE
        assert far(unit.outputs.embedding, torch.nn.functional.normalize(expected.mean(0), dim=0)) <= CLOSE


@pytest.mark.parametrize("family", ENCODERS)
def test_without_native_kernels_an_encoder_computes_the_same(family: str, tmp_path: Path) -> None:
    reference = checkpoint(tmp_path, f"{family}Model")
    opened = Checkpoint.resolve(str(tmp_path))
    model = spec_for(HFConfig(opened.config))
    encoder = EncoderModel(model, torch.float32, torch.device("cpu"), BidirectionalAttention(), model.max_length)
    assert encoder.load(open_source(opened)) == []
    starts = [0, *np.cumsum(LENGTHS).tolist()]
    batch = ForwardBatch(
        tokens=torch.tensor([id for ids in prompts() for id in ids], dtype=torch.int32),
        positions=torch.cat([torch.arange(n, dtype=torch.int32) for n in LENGTHS]),
        starts=torch.tensor(starts, dtype=torch.int32),
        lengths=torch.tensor(LENGTHS, dtype=torch.int32),
        groups=[GroupInputs(torch.zeros(4, 1, dtype=torch.int32), torch.zeros(starts[-1], dtype=torch.int64), 16)],
        caches=[torch.empty(0)] * len(model.blocks),
        logit_rows=torch.zeros(0, dtype=torch.int64),
        host_starts=starts,
        host_lengths=list(LENGTHS),
    )
    hidden = encoder.forward(batch)
    for i, ids in enumerate(prompts()):
        assert far(hidden[starts[i] : starts[i + 1]].detach().numpy(), states(reference, ids)) <= CLOSE


@pytest.mark.parametrize(
    ("family", "num_labels"), [*((name, 3) for name in (*ENCODERS, *DECODERS)), ("Bert", 1), ("Qwen3", 1)]
)
def test_a_classifier_scores_as_transformers_does(family: str, num_labels: int, tmp_path: Path) -> None:
    pooled = {"classifier_pooling": "mean"} if family == "ModernBert" and num_labels == 3 else {}
    reference = checkpoint(tmp_path, f"{family}ForSequenceClassification", num_labels=num_labels, **pooled)
    with opened(tmp_path, max_model_len=256) as llm:
        logits = llm.classify(prompts(), PoolingParams(use_activation=False), use_tqdm=False)
        scores = llm.classify(prompts(), use_tqdm=False)
        assert llm.info.abilities.labels == tuple(f"LABEL_{i}" for i in range(num_labels))
        with pytest.raises(InvalidRequest, match="cannot embed texts; it can classify"):
            llm.embed(prompts())
    for ids, logit, score in zip(prompts(), logits, scores, strict=True):
        with torch.no_grad():
            expected = reference(torch.tensor([ids])).logits[0]
        assert far(logit.outputs.probs, expected) <= CLOSE
        linked = expected.sigmoid() if num_labels == 1 else expected.softmax(0)
        assert far(score.outputs.probs, linked) <= CLOSE
        assert num_labels == 1 or abs(sum(score.outputs.probs) - 1) < 1e-6


@pytest.mark.parametrize("family", ["Bert", "Roberta", "ModernBert", "Qwen3"])
def test_a_token_classifier_labels_every_token(family: str, tmp_path: Path) -> None:
    reference = checkpoint(tmp_path, f"{family}ForTokenClassification", num_labels=3)
    with opened(tmp_path, max_model_len=256, **({} if family != "Qwen3" else {"max_num_batched_tokens": 16})) as llm:
        found = llm.encode(prompts(), use_tqdm=False)
    for ids, output in zip(prompts(), found, strict=True):
        with torch.no_grad():
            expected = reference(torch.tensor([ids])).logits[0].softmax(-1)
        assert far(output.outputs.data, expected) <= CLOSE


@pytest.mark.parametrize("family", ["Bert", "Roberta", "ModernBert", "Qwen3"])
def test_a_cross_encoder_reads_a_pair_with_its_own_special_tokens_and_types(family: str, tmp_path: Path) -> None:
    reference = checkpoint(tmp_path, f"{family}ForSequenceClassification", num_labels=1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    with opened(tmp_path, max_model_len=64) as llm:
        found = llm.score(TEXTS[0], TEXTS, use_tqdm=False)
        cut = llm.score(TEXTS[1], TEXTS, use_tqdm=False, pooling_params=PoolingParams(truncate_prompt_tokens=17))
    for query, outputs, length in ((TEXTS[0], found, None), (TEXTS[1], cut, 17)):
        for text, output in zip(TEXTS, outputs, strict=True):
            limits = {} if length is None else {"truncation": True, "max_length": length}
            types = {"return_token_type_ids": family == "Bert"}
            inputs = tokenizer([query], [text], return_tensors="pt", **types, **limits)
            assert output.prompt_token_ids == inputs["input_ids"][0].tolist()
            with torch.no_grad():
                expected = reference(**inputs).logits[0].sigmoid()
            assert abs(output.outputs.score - float(expected)) <= CLOSE


@pytest.mark.parametrize(("family", "kind"), [("Llama", "last"), ("Llama", "mean"), ("Qwen3", "cls")])
def test_a_decoder_embeds_and_cutting_its_prompts_does_not_show(family: str, kind: str, tmp_path: Path) -> None:
    reference = checkpoint(tmp_path, f"{family}Model")
    options = {"pooling_type": kind, "max_model_len": 256}
    with opened(tmp_path, **options) as llm:
        whole = [values(output) for output in llm.encode(prompts(), use_tqdm=False)]
        with pytest.raises(InvalidRequest, match=f"{family}Model has no head to predict tokens with"):
            llm.generate(prompts())
    with opened(tmp_path, **options, block_size=4, max_num_batched_tokens=7, max_num_seqs=3) as llm:
        for order in (slice(None), slice(None, None, -1)):
            cut = [values(output) for output in llm.encode(prompts()[order], use_tqdm=False)][order]
            for one, other in zip(whole, cut, strict=True):
                assert np.array_equal(one, other)
        assert llm._core.check_books() == []
    for ids, vector in zip(prompts(), whole, strict=True):
        hidden = states(reference, ids)
        pooled = {"last": hidden[-1], "mean": hidden.mean(0), "cls": hidden[0]}[kind]
        assert far(vector, torch.nn.functional.normalize(pooled, dim=0)) <= CLOSE


@pytest.mark.parametrize("family", ["Bert", "ModernBert"])
def test_a_vector_does_not_depend_on_who_else_is_in_the_step(family: str, tmp_path: Path) -> None:
    checkpoint(tmp_path, f"{family}Model")
    with opened(tmp_path) as llm:
        together = llm.encode(prompts() * 3, use_tqdm=False)
        alone = [llm.encode([ids], use_tqdm=False)[0] for ids in prompts()]
    for i, output in enumerate(together):
        assert np.array_equal(values(output), values(alone[i % len(alone)]))


def test_one_engine_generates_and_embeds_in_the_same_steps(tmp_path: Path) -> None:
    checkpoint(tmp_path, "Qwen3ForCausalLM")
    params = SamplingParams(temperature=0, max_tokens=48, ignore_eos=True)
    one = 2**20  # bytes of the longest context
    small = {"block_size": 4, "kv_cache_memory_bytes": one + one // 8}
    with opened(tmp_path, max_model_len=256, max_num_batched_tokens=16, **small) as llm:
        alone = [output.outputs[0].token_ids for output in llm.generate(prompts(), params, use_tqdm=False)]
        vectors = [values(output) for output in llm.encode(prompts(), pooling_task="embed", use_tqdm=False)]
        built = []
        for i, ids in enumerate(prompts()):
            built.append(llm._inputs.build(f"generate {i}", None, ids, params))
            built.append(llm._pooling.build(f"embed {i}", "embed", [ids], PoolingParams()))
        llm._compute(built, use_tqdm=False)
        for i, ids in enumerate(alone):
            assert built[2 * i][0].output().outputs[0].token_ids == ids
            assert np.array_equal(values(built[2 * i + 1][0].outputs()[0]), vectors[i])
        assert llm.get_metrics().preemptions > 0
        assert llm._core.check_books() == []


def test_cached_prefixes_serve_last_token_vectors_and_no_others(tmp_path: Path) -> None:
    checkpoint(tmp_path, "LlamaForCausalLM")
    long = prompts()[1]
    for kind, is_cached in (("last", True), ("mean", False)):
        with opened(tmp_path, max_model_len=256, pooling_type=kind) as llm:
            first, second = (llm.embed([long], use_tqdm=False)[0] for _ in range(2))
            assert first.outputs.embedding == second.outputs.embedding
            assert (second.num_cached_tokens > 0) == is_cached
            again = llm.embed([long], PoolingParams(skip_reading_prefix_cache=True), use_tqdm=False)[0]
            assert again.num_cached_tokens == 0 and again.outputs.embedding == first.outputs.embedding
            tokens = llm.encode([long], pooling_task="token_embed", use_tqdm=False)[0]
            assert values(tokens).shape == (len(long), 32) and tokens.num_cached_tokens == 0


def test_dimensions_keep_the_first_components_at_unit_length(tmp_path: Path) -> None:
    checkpoint(tmp_path, "BertModel")
    with opened(tmp_path) as llm:
        raw = np.array(llm.embed([TEXTS[0]], PoolingParams(normalize=False), use_tqdm=False)[0].outputs.embedding)
        short = llm.embed([TEXTS[0]], PoolingParams(dimensions=8), use_tqdm=False)[0].outputs.embedding
    assert np.abs(np.array(short) - raw[:8] / np.linalg.norm(raw[:8])).max() <= CLOSE


def test_texts_are_cut_as_transformers_cuts_them(tmp_path: Path) -> None:
    checkpoint(tmp_path, "BertModel")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    with opened(tmp_path, max_model_len=12) as llm:
        with pytest.raises(InvalidRequest, match="takes at most 12.*truncate_prompt_tokens"):
            llm.embed(TEXTS, use_tqdm=False)
        for asked, length in ((-1, 12), (5, 5)):
            found = llm.embed(TEXTS, PoolingParams(truncate_prompt_tokens=asked), use_tqdm=False)
            expected = tokenizer(TEXTS, truncation=True, max_length=length)["input_ids"]
            assert [output.prompt_token_ids for output in found] == expected
        with pytest.raises(InvalidRequest, match="truncate_prompt_tokens=2 leaves no room"):
            llm.embed(TEXTS, PoolingParams(truncate_prompt_tokens=2), use_tqdm=False)


def test_what_a_model_cannot_do_is_refused_with_what_it_can(tmp_path: Path) -> None:
    checkpoint(tmp_path, "BertModel")
    with opened(tmp_path) as llm:
        with pytest.raises(InvalidRequest, match=r"BertModel is an encoder; it can embed, token_embed"):
            llm.generate("a")
        with pytest.raises(InvalidRequest, match="cannot classify texts; it can embed"):
            llm.classify("a")
        for params, message in (
            ({"dimensions": 33}, "dimensions must be at most 32"),
            ({"prompt_name": "query"}, "it has none"),
        ):
            with pytest.raises(InvalidRequest, match=message):
                llm.embed("a", PoolingParams(**params))
        with pytest.raises(InvalidRequest, match=r"outside the vocabulary"):
            llm.embed([[5, 10**6]])
    for wrong in ({"task": "sing"}, {"dimensions": 0}, {"normalize": 1}, {"truncate_prompt_tokens": 0}):
        with pytest.raises(InvalidRequest, match=next(iter(wrong))):
            PoolingParams(**wrong)


def test_prompts_that_must_be_whole_need_steps_that_hold_them(tmp_path: Path) -> None:
    checkpoint(tmp_path, "BertModel")
    with pytest.raises(StartupError, match="max_num_batched_tokens=64 is less than max_model_len=300"):
        opened(tmp_path, max_num_batched_tokens=64)


def test_old_spellings_of_layer_norms_are_read(tmp_path: Path) -> None:
    reference = checkpoint(tmp_path, "BertModel")
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    save_file({f"bert.{name}": tensor for name, tensor in renamed.items()}, tmp_path / "model.safetensors")
    with opened(tmp_path) as llm:
        found = llm.encode([prompts()[0]], PoolingParams(use_activation=False), False, pooling_task="token_embed")
    assert far(found[0].outputs.data, states(reference, prompts()[0])) <= CLOSE


def modules(folder: Path, *others: tuple[str, str, Mapping[str, object]]) -> None:
    """Write modules.json and each module's config, as sentence-transformers lays them out."""
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for index, (name, kind, config) in enumerate(others, 1):
        listed.append({"idx": index, "name": str(index), "path": name, "type": f"sentence_transformers.models.{kind}"})
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    (folder / "modules.json").write_text(json.dumps(listed))


def test_a_folder_of_sentence_transformers_is_honored(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    checkpoint(tmp_path / "body", "BertModel")
    parts = library.sentence_transformer.modules
    body = parts.Transformer(str(tmp_path / "body"), max_seq_length=20)
    torch.manual_seed(5)
    for kind, behind in (("cls", False), ("mean", True), ("lasttoken", False)):
        folder = tmp_path / kind
        chain = [body, parts.Pooling(32, pooling_mode=kind)]
        if behind:
            chain += [parts.Dense(32, 24), parts.Normalize()]
        prompts = {"query": "what is ", "document": ""}
        reference = library.SentenceTransformer(
            modules=chain, prompts=prompts, default_prompt_name="query" if behind else None, device="cpu"
        )
        reference.save(str(folder))
        with opened(folder) as llm:
            assert llm.info.max_model_len == 20
            for name in (None, "query", "document"):
                params = PoolingParams(prompt_name=name, truncate_prompt_tokens=-1)
                found = [output.outputs.embedding for output in llm.embed(TEXTS, params, use_tqdm=False)]
                expected = torch.tensor(reference.encode(TEXTS, prompt_name=name))
                assert far(found, expected) <= CLOSE
                assert len(found[0]) == (24 if behind else 32)


def test_a_cross_encoder_of_sentence_transformers_scores_as_it_was_trained(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    checkpoint(tmp_path / "body", "BertForSequenceClassification", num_labels=1)
    for activation in (torch.nn.Identity(), torch.nn.Sigmoid()):
        folder = tmp_path / type(activation).__name__
        reference = library.CrossEncoder(str(tmp_path / "body"), activation_fn=activation, device="cpu")
        reference.save_pretrained(str(folder))
        with opened(folder) as llm:
            found = [output.outputs.score for output in llm.score(TEXTS[3], TEXTS, use_tqdm=False)]
        expected = torch.tensor(reference.predict([(TEXTS[3], text) for text in TEXTS]))
        assert far(found, expected) <= CLOSE


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pooling_mode_max_tokens": True}, "pooling by.*max.*is not supported"),
        ({"pooling_mode": ["mean", "cls"]}, "is not supported"),
    ],
)
def test_poolings_that_are_not_there_are_named(config: Mapping[str, object], message: str, tmp_path: Path) -> None:
    checkpoint(tmp_path, "BertModel")
    modules(tmp_path, ("1_Pooling", "Pooling", config))
    with pytest.raises(UnsupportedModel, match=message):
        Embedder.of(Checkpoint.resolve(str(tmp_path)))


def test_a_module_that_is_not_known_is_named(tmp_path: Path) -> None:
    checkpoint(tmp_path, "BertModel")
    modules(tmp_path, ("1_Pooling", "Pooling", {"pooling_mode": "mean"}), ("2_LSTM", "LSTM", {}))
    with pytest.raises(UnsupportedModel, match="module LSTM is not among"):
        Embedder.of(Checkpoint.resolve(str(tmp_path)))


def test_a_generative_checkpoint_says_nothing_of_modules() -> None:
    assert Embedder.of(Checkpoint.resolve(str(POCKET))) == Embedder()
