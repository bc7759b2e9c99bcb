"""Which models exist, and what one folder says about itself."""

from __future__ import annotations

import subprocess
import sys

import pytest
from random_gpt2 import write_model

from keyhole.engine.folder import Defaults, UnsupportedModelError, read_folder
from keyhole.engine.library import (
    DEMO,
    Library,
    ModelNotPulledError,
    is_model_name,
    list_models,
)
from keyhole.engine.text import load_vocabulary


def test_a_folder_is_found_under_owner_and_name(models_dir):
    found = Library(models_dir).find("acme/tiny")

    assert found.path == models_dir / "acme" / "tiny"
    assert found.architecture.layers == 2


def test_a_link_to_a_snapshot_tells_its_commit(tmp_path):
    commit = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
    write_model(tmp_path / "cache" / commit)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "gpt2").symlink_to(tmp_path / "cache" / commit)

    assert Library(tmp_path / "models").find("gpt2").commit == commit


def test_a_model_that_is_not_here_says_how_to_get_it(models_dir):
    with pytest.raises(ModelNotPulledError, match="run: keyhole model pull owner/name"):
        Library(models_dir).find("owner/name")


@pytest.mark.parametrize(
    ("name", "reason"), [("llama", "is of type llama"), ("gone", "a link to a folder that is gone")]
)
def test_a_model_that_cannot_run_says_why(models_dir, name, reason):
    with pytest.raises(UnsupportedModelError, match=reason):
        Library(models_dir).find(name)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(tmp_path, missing):
    path = write_model(tmp_path / "model")
    (path / missing).unlink()

    with pytest.raises(UnsupportedModelError, match=f"has no {missing}"):
        read_folder("model", path)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/..", "a/../b", "/a", "a/", "a//b", "a/b/c", ".a", "a/.b"),
        *("a..b", "a b", "a\n", "a\x00", "-a", "é", "a/b\n", "~", "a\\b"),
    ],
)
def test_names_that_lead_elsewhere_are_no_names(models_dir, name):
    assert not is_model_name(name)
    with pytest.raises(ModelNotPulledError):
        Library(models_dir).find(name)


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2", "a_b/c.d-e", "0/1.5"])
def test_the_hubs_names_are_names(name):
    assert is_model_name(name)


def test_a_listing_holds_every_folder_and_what_is_wrong_with_it(models_dir):
    listed = {model.name: model for model in list_models(models_dir)}

    assert list(listed) == [DEMO, "acme/tiny", "gone", "llama"]
    assert listed["acme/tiny"].problem is None
    assert listed["acme/tiny"].size_bytes > 0
    assert "is of type llama" in str(listed["llama"].problem)


def test_a_listing_of_no_directory_holds_the_carried_model(tmp_path):
    assert [model.name for model in list_models(tmp_path / "nowhere")] == [DEMO]
    assert [model.name for model in list_models()] == [DEMO]


def test_listing_models_does_not_load_numpy():
    code = "import sys, keyhole.engine.library; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path):
    path = write_model(tmp_path / "model", vocabulary=200)

    with pytest.raises(UnsupportedModelError, match=r"has 200 tokens, but its tokenizer\.json"):
        load_vocabulary(read_folder("model", path))


def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path):
    path = write_model(tmp_path / "model")
    (path / "tokenizer.json").write_text("{}")

    with pytest.raises(UnsupportedModelError, match=r"tokenizer\.json that cannot be read"):
        load_vocabulary(read_folder("model", path))


GPT2_TASK = {"text-generation": {"do_sample": True, "max_length": 50}}


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({}, None, Defaults()),
        ({"task_specific_params": GPT2_TASK}, None, Defaults(top_k=50, max_length=50)),
        (
            {"task_specific_params": GPT2_TASK},
            {"top_k": 40, "max_new_tokens": 9},
            Defaults(top_k=40, max_length=50, max_new_tokens=9),
        ),
        (
            {},
            {"temperature": 0.8, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.2},
            Defaults(temperature=0.8, repetition_penalty=1.2),
        ),
    ],
    ids=["nothing", "the hosted gpt2", "generation_config outranks", "neutral values are off"],
)
def test_defaults_come_from_both_files(tmp_path, config, generation, expected):
    path = write_model(tmp_path / "model", config=config, generation=generation)

    assert read_folder("model", path).defaults == expected


def test_generation_config_outranks_config_for_the_end_token(tmp_path):
    path = write_model(tmp_path / "model", generation={"eos_token_id": [3, 4]})

    assert read_folder("model", path).eos_token_ids == {3, 4}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"activation_function": "relu"}, "activation_function relu"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"quantization_config": {}}, "quantization_config"),
        ({"n_head": 5}, "a shape that is no GPT-2"),
        ({"n_embd": "wide"}, "cannot be read"),
        ({"task_specific_params": {"text-generation": {"top_k": "x"}}}, "cannot be used"),
    ],
)
def test_a_config_that_the_engine_does_not_know_is_refused(tmp_path, config, reason):
    path = write_model(tmp_path / "model", config=config)

    with pytest.raises(UnsupportedModelError, match=reason):
        read_folder("model", path)
