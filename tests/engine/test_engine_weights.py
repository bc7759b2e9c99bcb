"""Reading model.safetensors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from random_gpt2 import random_tensors, write_model

from keyhole.engine.folder import UnsupportedModelError, read_folder
from keyhole.engine.weights import load_weights


def load(path):
    return load_weights(read_folder("model", path))


def test_fp32_tensors_are_views_of_the_file(tmp_path):
    weights = load(write_model(tmp_path / "model"))

    assert not weights.tokens.flags.owndata
    assert not weights.tokens.flags.writeable
    assert weights.head is weights.tokens


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_values_are_those_that_were_saved(tmp_path, prefix):
    path = write_model(tmp_path / "model", prefix=prefix, vocabulary=310)
    saved = random_tensors(2, 32, 64, 310, 0)

    weights = load(path)

    assert np.array_equal(weights.tokens, saved["wte.weight"])
    assert np.array_equal(weights.blocks[1].qkv.bias, saved["h.1.attn.c_attn.bias"])


def test_half_precision_becomes_fp32(tmp_path):
    weights = load(write_model(tmp_path / "model", dtype=np.float16, vocabulary=310))

    saved = random_tensors(2, 32, 64, 310, 0)["wte.weight"]
    assert weights.tokens.dtype == np.float32
    assert np.array_equal(weights.tokens, saved.astype(np.float16).astype(np.float32))


def test_bfloat16_becomes_fp32(tmp_path):
    path = write_model(tmp_path / "model", dtype=np.float16, vocabulary=310)
    file = path / "model.safetensors"
    whole = file.read_bytes()
    data_at = 8 + int.from_bytes(whole[:8], "little")
    header = whole[8:data_at].replace(b'"F16"', b'"BF16"')
    file.write_bytes(len(header).to_bytes(8, "little") + header + whole[data_at:])

    weights = load(path)

    stored = random_tensors(2, 32, 64, 310, 0)["wte.weight"].astype(np.float16).view(np.uint16)
    expected = (stored.astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(weights.tokens, expected, equal_nan=True)


def test_mask_buffers_of_old_files_are_skipped(tmp_path):
    mask = np.tril(np.ones((1, 1, 64, 64), np.float32))
    path = write_model(tmp_path / "model", extra={"h.0.attn.bias": mask})

    assert load(path).blocks[0].qkv.bias.shape == (96,)


def test_a_wrong_shape_names_the_tensor_and_both_shapes(tmp_path):
    path = write_model(tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"n_positions": 65}))

    with pytest.raises(UnsupportedModelError, match=r"wpe\.weight of shape \[64, 32\].*\[65, 32\]"):
        load(path)


def test_a_missing_tensor_is_named(tmp_path):
    path = write_model(tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"n_layer": 3}))

    with pytest.raises(UnsupportedModelError, match=r"no tensor h\.2\.ln_1\.weight"):
        load(path)


def test_a_dtype_that_is_not_known_is_named(tmp_path):
    path = write_model(tmp_path / "model", extra={"wte.weight": np.zeros(4)}, dtype=np.int32)

    with pytest.raises(UnsupportedModelError, match=r"stores wte\.weight as I32"):
        load(path)


@pytest.mark.parametrize("kept", [0, 3, 8, 100, -4])
def test_a_file_that_was_cut_short_is_refused(tmp_path, kept):
    path = write_model(tmp_path / "model")
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])

    with pytest.raises(UnsupportedModelError, match=r"cut short|ends before|cannot be read"):
        load(path)
