"""What a model is given: beginning-of-sequence tokens, chat templates, and texts and token strings of both kinds of tokenizer."""

import copy
import json
from pathlib import Path

import polars as pl
import pytest
import torch
from engine_models import WORLD, save_model, tiny_model, tiny_sae, tiny_tokenizer
from oracles import plain_hooks
from polars.testing import assert_frame_equal
from pydantic import ValidationError
from synthetic_tables import lens_rows
from tokenizer_kinds import KINDS, TEXTS
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as token_models
from transformers import AutoTokenizer, GPT2Config, GPTNeoXConfig, LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedTokenizerFast

from saesteer.analysis.gen_success import gen_success
from saesteer.analysis.input_score import input_scores
from saesteer.core.texts import as_generations
from saesteer.core.tokens import TextTokens, load_tokens
from saesteer.engine.continuation import Sampling, continuation_texts, final_ids
from saesteer.engine.generations import feature_texts
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.models import LanguageModel, language_model, load_language_model, plain_token_ids, prompt_token_ids
from saesteer.engine.output_score import output_scores
from saesteer.engine.perplexity import continuation_nll, scored_prefix
from saesteer.engine.weights import load_tokenizer
from saesteer.settings import SettingsError, load_experiment
from saesteer.settings.inputs import ChatSettings, ModelSettings
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES
from saesteer.steps.step import steps_of

TURNS = (
    "{% for turn in messages %}<start_of_turn>{{ 'model' if turn.role == 'assistant' else turn.role }}: {{ turn.content }}<end_of_turn>;"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model:{% endif %}"
)
NO_BOS = "$A"


EXPERIMENTS = Path(__file__).parents[1] / "config/experiments"
THINKING = "{{ bos_token }}" + TURNS + "{% if enable_thinking is defined and not enable_thinking %}no{% endif %}"
CHAT = ChatSettings(system="be bo", turns=(("di?", "da."),))


def chat_tokenizer(template: str = "{{ bos_token }}" + TURNS, adds: str = "<bos> $A") -> PreTrainedTokenizerFast:
    """The tiny tokenizer with a chat template of Gemma's kind; its two marks of a turn take logits that had no token."""
    tokenizer = tiny_tokenizer(adds)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    tokenizer.chat_template = template
    return tokenizer


def chat_model(
    template: str = "{{ bos_token }}" + TURNS, chat: ChatSettings | None = None, family: str = "llama", bos: str = "tokenizer"
) -> LanguageModel:
    return language_model(tiny_model(family).model, chat_tokenizer(template), bos, "chat", chat or ChatSettings())


def pieces(lm: LanguageModel, ids: list[int]) -> str:
    return "|".join(lm.tokenizer.convert_ids_to_tokens(ids))


@pytest.mark.parametrize("adds", ["<bos> $A", NO_BOS])
def test_bos_always_gives_one_whether_or_not_the_tokenizer_does(adds: str) -> None:
    model = tiny_model("gpt2").model
    by_tokenizer, always = (language_model(model, tiny_tokenizer(adds), bos) for bos in ("tokenizer", "always"))
    text = tiny_tokenizer(NO_BOS)("From ba be")["input_ids"]
    assert prompt_token_ids(by_tokenizer, "From ba be") == ([1, *text] if adds != NO_BOS else text)
    assert prompt_token_ids(always, "From ba be") == [1, *text]
    assert prompt_token_ids(always, "") == [1]


def test_a_chat_prompt_is_a_users_turn_up_to_the_answer() -> None:
    lm = chat_model()
    assert pieces(lm, prompt_token_ids(lm, "ba be")) == "<bos>|<start_of_turn>|u|se|r|:| ba| be|<end_of_turn>|;|<start_of_turn>|mo|de|l|:"
    assert pieces(lm, plain_token_ids(lm, "ba be")) == "<bos>|ba| be"


@pytest.mark.parametrize(
    ("template", "bos", "n_bos"), [(TURNS, "tokenizer", 0), (TURNS, "always", 1), ("{{ bos_token }}" + TURNS, "always", 1)]
)
def test_no_second_bos_in_a_chat_prompt(template: str, bos: str, n_bos: int) -> None:
    """The tokenizer would add one; the template decides, or the rule "always"."""
    lm = chat_model(template, bos=bos)
    ids = prompt_token_ids(lm, "ba be")
    assert ids.count(1) == n_bos
    assert ids[:n_bos] == [1] * n_bos


def test_refusals_name_the_model(tmp_path: Path) -> None:
    path = save_model(tiny_model("gpt2"), tmp_path / "gpt2-like")
    with pytest.raises(ValueError, match=r"gpt2-like: its tokenizer has no chat template; set prompt_format to plain"):
        load_language_model(path, "float32", "cpu", prompt_format="chat")
    assert load_language_model(path, "float32", "cpu", bos="always").bos == "always"
    for name, change in (("tokenizer_config.json", {"bos_token": None}), ("config.json", {"bos_token_id": None})):
        file = path / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **change, "tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(ValueError, match=r"gpt2-like: its tokenizer has no beginning-of-sequence token; set bos to tokenizer"):
        load_language_model(path, "float32", "cpu", bos="always")
    with pytest.raises(SettingsError, match=r"gpt2-like: its tokenizer has no beginning-of-sequence token"):
        load_tokens(path).token_ids(["ba"], "always")
    with pytest.raises(ValueError, match="bos is 'never', but must be one of tokenizer, always"):
        load_language_model(path, "float32", "cpu", bos="never")
    with pytest.raises(ValueError, match="prompt_format is 'Chat', but must be one of plain, chat"):
        load_language_model(path, "float32", "cpu", prompt_format="Chat")


def test_what_ends_a_text() -> None:
    """The generation config's list; and an answer's end by the template, which some generation configs leave out."""
    plain, lm = language_model(copy.deepcopy(tiny_model("llama").model), chat_tokenizer()), chat_model()
    end_of_turn = lm.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert final_ids(plain) == [2]
    assert final_ids(lm) == [2, end_of_turn]
    plain.model.generation_config.eos_token_id = [2, 70]
    assert final_ids(plain) == [2, 70]
    plain.model.generation_config.eos_token_id = None
    assert final_ids(plain) == []
    bare = language_model(lm.model, chat_tokenizer("{% for turn in messages %}{{ turn.content }} {% endfor %}:"), prompt_format="chat")
    assert final_ids(bare) == [2]


def _answering(lm: LanguageModel, ids: list[int]) -> LanguageModel:
    """A copy that ends its turn where the model would say any of these tokens with more than a third of its end's logit."""
    model = copy.deepcopy(lm.model)
    end = lm.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    model.get_output_embeddings().weight.data[end] = 3 * model.get_output_embeddings().weight.data[ids].mean(dim=0)
    return language_model(model, lm.tokenizer, lm.bos, lm.prompt_format)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_responses_equal_generate_and_are_the_response_only(family: str) -> None:
    """Steering starts at the last token of the generation prompt; neither the prompt nor the marks of turns are in the text."""
    lm, sae = chat_model(family=family), tiny_sae(1)
    instructions = {f"{number:016x}": text for number, text in enumerate(["ba be dibo", "From tuda", "do"])}
    rows = pl.DataFrame(
        [(feature, factor, name, 0) for feature in (5, 40, 77) for factor in ("0", "10") for name in instructions],
        schema={"feature": pl.UInt32, "factor": pl.String, "prefix_id": pl.String, "sample": pl.UInt32},
        orient="row",
    )
    token_ids = pl.concat(feature_texts(lm, sae, 1, rows, instructions, Sampling(6, 0.0, stop=""), 0))["token_ids"]
    lm = _answering(lm, token_ids.list.get(2).to_list())
    table = pl.concat(feature_texts(lm, sae, 1, rows, instructions, Sampling(6, 0.0, stop=""), 0))
    for row in table.to_dicts():
        ids = prompt_token_ids(lm, instructions[row["prefix_id"]])
        expected = plain_hooks.generated(lm.model, sae, 1, row["feature"], float(row["factor"]), ids, 6, final_ids(lm))
        assert row["token_ids"] == expected
        assert row["stopped"] == (expected[-1] in final_ids(lm))
        special = {1, 2, *lm.tokenizer.convert_tokens_to_ids(["<start_of_turn>", "<end_of_turn>"])}
        assert row["text"] == "".join(lm.tokenizer.convert_ids_to_tokens([token for token in expected if token not in special]))
    assert table["stopped"].n_unique() == 2
    assert not table["text"].str.contains("turn", literal=True).any()


def test_what_ends_a_text_is_left_out_of_it_even_where_it_is_a_plain_token() -> None:
    lm = language_model(copy.deepcopy(tiny_model("llama").model), tiny_tokenizer())
    stop, ba, be = lm.tokenizer.convert_tokens_to_ids([" do", " ba", " be"])
    lm.model.generation_config.eos_token_id = [2, stop]
    prompt = prompt_token_ids(lm, "From")
    continuations = [[ba, be, stop], [ba, stop, be], [ba, be, 2], [ba, 1, be], []]
    assert continuation_texts(lm, [prompt] * 5, continuations) == [" ba be", " ba do be", " ba be", " ba be", ""]


def test_the_output_scores_prompt_is_plain() -> None:
    sae, features = tiny_sae(1), [3, 50]
    plain, chat = tiny_model("llama"), chat_model()
    lens, _ = top_logit_lens_tokens(plain, sae.W_dec[features], 20)
    expected = output_scores(plain, sae, 1, features, lens, "From ba be", 10.0)
    assert_frame_equal(output_scores(chat, sae, 1, features, lens, "From ba be", 10.0), expected, check_exact=True)


def test_perplexity_of_a_response_and_with_bos() -> None:
    assert scored_prefix("I think", "plain") == "I think"
    assert scored_prefix("Say what you think.", "chat") == "Say what you think.\n"
    rows = pl.DataFrame(
        {"row": [0, 1, 2], "prefix": ["From ba\n", "From ba", ""], "text": ["do di be", " di", "ba"]}, schema_overrides={"row": pl.UInt32}
    )
    model = tiny_model("llama").model
    adding, always, without = (
        language_model(model, tiny_tokenizer(adds), bos)
        for adds, bos in (("<bos> $A", "tokenizer"), (NO_BOS, "always"), (NO_BOS, "tokenizer"))
    )
    expected = continuation_nll(adding, rows)
    assert_frame_equal(continuation_nll(always, rows), expected, check_exact=True)
    assert expected["n_scored"].to_list() == [3, 1, 1]
    assert continuation_nll(without, rows)["n_scored"].to_list() == [3, 1, 0]
    mean, _ = plain_hooks.continuation_nll(model, tiny_tokenizer(), "From ba ", "do di be")
    assert expected["mean_nll"][0] != pytest.approx(mean)  # the line's end counts


# A conversation before the prompt: texts written by hand.


def written(lm: LanguageModel, text: str) -> str:
    return lm.tokenizer.decode(prompt_token_ids(lm, text))


def test_a_prompt_comes_after_the_system_prompt_and_earlier_turns() -> None:
    expected = (
        "<bos><start_of_turn>system: be bo<end_of_turn>;<start_of_turn>user: di?<end_of_turn>;<start_of_turn>model: da.<end_of_turn>;"
        "<start_of_turn>user: ba<end_of_turn>;<start_of_turn>model:"
    )
    assert written(chat_model(THINKING, CHAT), "ba") == expected
    assert written(chat_model(THINKING, ChatSettings()), "ba") == "<bos>" + expected[expected.rindex("<start_of_turn>user") :]


def test_thinking_is_switched_off_and_on() -> None:
    off, on, own = (chat_model(THINKING, ChatSettings(enable_thinking=value)) for value in (False, True, None))
    assert written(off, "ba").endswith("<start_of_turn>model:no")
    assert written(on, "ba") == written(own, "ba")
    assert written(on, "ba").endswith("<start_of_turn>model:")


def test_what_a_template_refuses_or_leaves_out_is_refused() -> None:
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TURNS
    with pytest.raises(ValueError, match=r"refuses this conversation \(System role not supported\); change model\.chat"):
        chat_model(no_system, CHAT)
    last_only = "{{ messages[-1].content }}"
    with pytest.raises(ValueError, match="its chat template leaves out 'be bo'; remove that from model.chat"):
        chat_model(last_only, CHAT)
    with pytest.raises(ValueError, match="its chat template knows no enable_thinking; remove that from model.chat"):
        chat_model(TURNS, ChatSettings(enable_thinking=False))


def test_loading_takes_the_conversation(tmp_path: Path) -> None:
    folder = save_model(chat_model(THINKING, CHAT), tmp_path)
    lm = load_language_model(folder, "float32", "cpu", "tokenizer", "chat", CHAT)
    assert written(lm, "ba") == written(chat_model(THINKING, CHAT), "ba")
    assert final_ids(lm) == final_ids(chat_model(THINKING, CHAT))


def test_a_conversation_needs_prompt_format_chat() -> None:
    chat = {"system": "be bo", "turns": [["di?", "da."]]}
    assert ModelSettings(path=Path("m"), prompt_format="chat", chat=chat).chat == CHAT
    with pytest.raises(ValidationError, match="need prompt_format chat"):
        ModelSettings(path=Path("m"), chat=chat)


def test_a_conversation_makes_texts_due_and_no_scores() -> None:
    experiment = load_experiment("gemma-2-9b-it-concept500", EXPERIMENTS)
    other = experiment.model_copy(update={"model": experiment.model.model_copy(update={"prompt_format": "chat", "chat": CHAT})})
    before, after = steps_of(experiment), steps_of(other)
    assert before["generations"].settings["chat"] == ChatSettings().model_dump(mode="json")
    assert after["generations"].settings["chat"] == CHAT.model_dump(mode="json")
    assert {step for step in before if before[step].settings != after[step].settings} >= {"generations"}
    assert all(before[step].settings == after[step].settings for step in ("logit_lens", "output_score", "input_score"))


# Byte-level tokenizers.

CORPUS = ["the sea is calm and the ship sails on the sea", "Say it: naïve café 😀, the end.\n\nThe  sea"] * 5
END = "<|endoftext|>"


def byte_level(path: Path, config: PretrainedConfig, tokenizer_config: dict[str, object], adds_bos: bool = False) -> Path:
    """A folder as the hub has it of GPT-2, Pythia or Llama 3: a byte-level BPE tokenizer and the two config files that concern it."""
    tokenizer = Tokenizer(token_models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=330, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    )
    template = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), template]) if adds_bos else processors.ByteLevel()
    path.mkdir()
    tokenizer.save(str(path / "tokenizer.json"))
    config.save_pretrained(path)
    (path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return path


@pytest.fixture(scope="module", params=["gpt2", "pythia", "llama3"])
def byte_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizers") / request.param
    if request.param == "gpt2":  # its tokenizer's file names no special token
        return byte_level(path, GPT2Config(bos_token_id=0, eos_token_id=0), {"model_max_length": 1024})
    if request.param == "pythia":
        return byte_level(path, GPTNeoXConfig(bos_token_id=0, eos_token_id=0), {"bos_token": END, "tokenizer_class": "GPTNeoXTokenizer"})
    named = {"bos_token": {"content": END, "__type": "AddedToken"}, "tokenizer_class": "PreTrainedTokenizerFast"}
    return byte_level(path, LlamaConfig(bos_token_id=7), named, adds_bos=True)


def test_byte_level_token_strings_say_what_they_stand_for(byte_folder: Path) -> None:
    tokens = load_tokens(byte_folder)
    assert tokens.byte_level
    ids = tokens.retokenise(["the sea, café 😀"])[0]
    assert tokens.strings(ids)[:2] == ["the", " sea"]
    assert tokens.strings([0]) == [END]
    for text in (" sea", "the", "\n\n", "▁", " ▁", "Ġ"):
        assert tokens.text_of(text) == text
    assert [tokens.retokenise([tokens.text_of(string)])[0][0] for string in tokens.strings(ids)[:2]] == ids[:2]
    halves = tokens.retokenise(["é"])[0]
    assert tokens.strings(halves) == (["é"] if len(halves) == 1 else ["�", "�"])


def test_shipped_token_strings_are_the_tokenizers_own() -> None:
    tokens = load_tokens(WORLD / "model")
    assert not tokens.byte_level
    everything = range(tokens.tokenizer.get_vocab_size())
    assert tokens.strings(everything) == [tokens.tokenizer.id_to_token(token) for token in everything]
    assert [tokens.text_of(string) for string in ("▁sea", "sea", " sea", "<0x0A>")] == [" sea", "sea", " sea", "<0x0A>"]
    assert not TextTokens(Tokenizer(token_models.WordLevel({"a": 0}, unk_token="a"))).byte_level


@pytest.mark.parametrize("bos", ["tokenizer", "always"])
def test_texts_are_tokenised_as_the_model_tokenises_them(byte_folder: Path, tmp_path: Path, bos: str) -> None:
    tiny = save_model(tiny_model("gpt2"), tmp_path / "tiny")
    model = tiny_model("llama").model
    for folder in (byte_folder, tiny, WORLD / "model"):
        lm = language_model(model, AutoTokenizer.from_pretrained(folder, local_files_only=True), bos)
        texts = ["the sea is calm", "", " café 😀\n", "ba be dibo"]
        token_ids = load_tokens(folder).token_ids(texts, bos)
        assert token_ids == [plain_token_ids(lm, text) for text in texts]
        assert load_tokens(folder).token_ids(texts, bos, max_tokens=3) == [ids[:3] for ids in token_ids]
        if bos == "always":
            assert {ids[0] for ids in token_ids} == {lm.tokenizer.bos_token_id}


def _examples(tokens: list[tuple[str, int | None]]) -> pl.DataFrame:
    common = {"token_index": 1, "value": 1.0, "max_value": 1.0}
    examples = [
        common | {"rank": place, "text_id": str(place), "token": token, "token_id": token_id, "context": [token]}
        for place, (token, token_id) in enumerate(tokens)
    ]
    schema = {name: MAX_ACTIVATING_EXAMPLES.schema[name] for name in ("layer", "feature", "examples")}
    return pl.DataFrame({"layer": [0], "feature": [1], "examples": [examples]}, schema_overrides=schema)


def test_input_score_of_local_and_of_downloaded_examples_agree(byte_folder: Path) -> None:
    """Strings of local max-activating examples, of Neuronpedia's (no ids), and the ids themselves; by hand 2 of 3 are top logit-lens
    tokens."""
    for folder, downloaded in ((byte_folder, ["the", " sea", " ship"]), (WORLD / "model", ["the", "▁sea", "▁ship"])):
        tokens = load_tokens(folder)
        ids = [first for first, *_ in tokens.retokenise([string.replace("▁", " ") for string in downloaded])]
        lens = lens_rows(0, {1: ids[1:]})
        local = list(zip(tokens.strings(ids), ids, strict=True))
        for examples, convention in ((local, "retokenised"), ([(token, None) for token in downloaded], "retokenised"), (local, "ids")):
            row = input_scores(_examples(examples), lens, tokens, convention, 1).row(0, named=True)
            assert (row["input_score"], row["n_examples"]) == (pytest.approx(2 / 3), 3)


def test_gen_success_counts_a_responses_tokens(byte_folder: Path) -> None:
    """A response does not start with a space, as a continuation does; "the" and " the" are two tokens."""
    tokens = load_tokens(byte_folder)
    the, with_space = (tokens.retokenise([text])[0][0] for text in ("the", " the"))
    assert the != with_space
    names = ("layer", "feature", "factor", "prefix_id", "sample", "token_ids", "text", "reason")
    schema = GENERATIONS.schema | {"feature": pl.UInt32}
    generations = pl.DataFrame(
        [(0, 1, "2", "0" * 16, 0, [the, with_space, 0], "the the", None)], schema={name: schema[name] for name in names}, orient="row"
    )
    lens = lens_rows(0, {1: [the]})
    for convention in ("retokenised", "ids"):
        counted = gen_success(as_generations(generations).with_columns(feature=pl.lit(1, pl.UInt32)), lens, tokens, convention)
        assert counted["gen_success_1"].to_list() == [1]


def test_perplexity_with_a_byte_level_tokenizer(byte_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(byte_folder, local_files_only=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=340, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        lm = language_model(LlamaForCausalLM(config), tokenizer)
    pairs = [("the sea", " is calm"), ("the sea", "  and  on\n"), ("the sea", " "), ("café", " 😀"), ("the", "re")]
    rows = pl.DataFrame(
        {"row": range(len(pairs)), "prefix": [p for p, _ in pairs], "text": [t for _, t in pairs]}, schema_overrides={"row": pl.UInt32}
    )
    for row, (prefix, text) in zip(continuation_nll(lm, rows).to_dicts(), pairs, strict=True):
        ids = tokenizer(prefix + text)["input_ids"]
        start = len(tokenizer(prefix)["input_ids"])
        assert row["n_scored"] == len(ids) - start
        assert row["mean_nll"] == pytest.approx(float(plain_hooks.token_losses(lm.model, ids, start).mean()), rel=1e-5)


@pytest.mark.parametrize("kind", ["BPE with dummy prefix (Llama 2)", "byte-level (GPT-2)"])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("named", ["LlamaTokenizerFast", "GemmaTokenizerFast", "Qwen2Tokenizer", "PreTrainedTokenizerFast"])
def test_prompts_are_read_with_the_tokenizer_of_the_file(kind: str, family: str, named: str, tmp_path: Path) -> None:
    """transformers 5 makes the tokenizer of a family's or a named class anew, whatever the file says."""
    PreTrainedTokenizerFast(tokenizer_object=KINDS[kind](), bos_token="<s>", eos_token="</s>").save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": named}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer(TEXTS, add_special_tokens=False)["input_ids"] == load_tokens(tmp_path).ids_alone(TEXTS)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


def test_a_tokenizer_that_ends_prompts_is_refused() -> None:
    lm = tiny_model("llama")
    ending = copy.deepcopy(lm.tokenizer)
    specials = [(token, ending.convert_tokens_to_ids(token)) for token in ("<bos>", "<eos>")]
    ending.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=specials)
    with pytest.raises(ValueError, match="its tokenizer ends every text with <eos>, .* set add_eos_token to false"):
        language_model(lm.model, ending)
