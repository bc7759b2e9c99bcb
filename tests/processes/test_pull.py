"""`keyhole model pull` against a small Hub of our own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.random_gpt2 import write_model
from processes.conftest import STORY
from processes.driving import Ran, keyhole, serving
from processes.hub import COMMIT, Hub, Repository

TOKEN = "hf_PULLPULLPULLPULLPULLPULLPULL"
FILES = {"config.json", "model.safetensors", "tokenizer.json"}

Pull = Callable[..., Ran]


@pytest.fixture
def hub(tiny_models: Path, tmp_path: Path) -> Iterator[Hub]:
    story = tiny_models / STORY
    llama, pickled, broken = (tmp_path / name for name in ("llama", "pickled", "broken"))
    for folder in (llama, pickled, broken):
        shutil.copytree(story, folder)
    (llama / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    (broken / "config.json").write_text("{")
    (tmp_path / "empty").mkdir()
    shutil.copy(story / "tokenizer.json", tmp_path / "empty")
    repositories = {
        "tiny/story": Repository(story),
        "tiny/private": Repository(story, token=TOKEN),
        "tiny/gated": Repository(story, is_gated=True),
        "tiny/llama": Repository(llama),
        "tiny/pickled": Repository(pickled),
        "tiny/broken": Repository(broken),
        "tiny/empty": Repository(tmp_path / "empty"),
    }
    with Hub(repositories) as running:
        yield running


@pytest.fixture
def pull(hub: Hub, tmp_path: Path) -> Pull:
    """Runs the command with a cache, a home and a state directory of the test's own."""

    def run(repo: str, *options: str, **env: str) -> Ran:
        places = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        data = ("--data", tmp_path / "data")
        return keyhole("model", "pull", repo, *options, *data, home=tmp_path, **places | env)

    return run


def links(tmp_path: Path) -> list[str]:
    """The models that are there, and whatever else was left."""
    models = tmp_path / "data" / "models"
    return sorted(str(path.relative_to(models)) for path in models.glob("*/*"))


def test_a_pulled_model_answers_under_its_own_name(hub: Hub, pull: Pull, tmp_path: Path):
    pulled = pull("tiny/story")
    assert pulled.status == 0, pulled.err
    assert 'targets = ["engine/tiny/story"]' in pulled.out
    assert set(hub.downloads()) == FILES
    assert links(tmp_path) == ["tiny/story"]
    assert (tmp_path / "data" / "models" / STORY).resolve().name == COMMIT

    listed = keyhole("model", "list", "--data", tmp_path / "data", home=tmp_path)
    assert "tiny/story" in listed.out
    with serving(data=tmp_path / "data", home=tmp_path) as server:
        answer = server.ask({"input": "The fox", "model": "tiny/story"})
    assert answer.status == 200
    assert answer.headers["x-keyhole-model"] == "tiny/story"


def test_what_is_here_is_not_fetched_again_and_not_lost(hub: Hub, pull: Pull, tmp_path: Path):
    """A second pull, one without the Hub, one of a new commit, one of what cannot be run."""
    model = tmp_path / "data" / "models" / STORY
    assert pull("tiny/story").status == 0
    hub.requests.clear()

    assert pull("tiny/story").status == 0
    assert hub.downloads() == []

    shutil.rmtree(tmp_path / "data")
    hub.requests.clear()
    assert pull("tiny/story", HF_HUB_OFFLINE="1").status == 0
    assert hub.requests == []
    assert model.resolve().name == COMMIT

    newer = "f" * 40
    hub.repositories["tiny/story"].commit = newer
    assert pull("tiny/story").status == 0
    assert model.resolve().name == newer

    hub.repositories["tiny/story"] = Repository(hub.repositories["tiny/llama"].folder, "e" * 40)
    assert "of type llama" in pull("tiny/story").complaint
    assert model.resolve().name == newer
    assert links(tmp_path) == ["tiny/story"]


def test_the_token_is_sent_to_the_hub(hub: Hub, pull: Pull):
    assert pull("tiny/private", HF_TOKEN=TOKEN).status == 0
    tokens = {asked.token for asked in hub.requests if "tiny/private" in asked.path}
    assert tokens == {TOKEN}


def test_a_private_repository_without_the_token(pull: Pull, tmp_path: Path):
    complaint = pull("tiny/private").complaint
    assert "There is no model repository tiny/private" in complaint
    assert "set HF_TOKEN or run hf auth login" in complaint
    assert links(tmp_path) == []


def test_a_download_that_breaks_off_goes_on_where_it_was(hub: Hub, pull: Pull, tmp_path: Path):
    """The library writes ten megabytes at a time, so the file is a few times that."""
    large = write_model(tmp_path / "large", layers=8, width=256)
    hub.repositories["tiny/large"] = Repository(large)
    hub.break_off_after = 15_000_000
    assert pull("tiny/large").status == 0
    ranges = [asked.range for asked in hub.requests if asked.range]
    assert ranges == [f"bytes={10 * 1024 * 1024}-"]
    pulled = tmp_path / "data" / "models" / "tiny" / "large" / "model.safetensors"
    assert pulled.read_bytes() == (large / "model.safetensors").read_bytes()


def test_offline_without_the_cache(hub: Hub, pull: Pull, tmp_path: Path):
    complaint = pull("tiny/story", HF_HUB_OFFLINE="1").complaint
    assert "tiny/story is not in the local cache" in complaint
    assert "HF_HUB_OFFLINE" in complaint
    assert hub.requests == []
    assert links(tmp_path) == []


def test_a_hub_that_is_not_there(pull: Pull, tmp_path: Path):
    complaint = pull("tiny/story", HF_ENDPOINT="http://127.0.0.1:9").complaint
    assert "the Hub was not reached" in complaint
    assert links(tmp_path) == []


def test_a_hub_that_fails(hub: Hub, pull: Pull):
    hub.status = 500
    assert "answered 500 for tiny/story" in pull("tiny/story").complaint


@pytest.mark.parametrize(
    ("repo", "words"),
    [
        ("tiny/nothing", "There is no model repository tiny/nothing"),
        ("tiny/gated", "tiny/gated is gated, and this token may not read it"),
        ("tiny/llama", "is of type llama; the engine runs gpt2 only"),
        ("tiny/pickled", "tiny/pickled has no model.safetensors, which the engine needs"),
        ("tiny/broken", "has a config.json that cannot be read"),
        ("tiny/empty", "tiny/empty has no config.json"),
        ("not a name", "'not a name' is not a repository's name"),
        ("../up", "'../up' is not a repository's name"),
        ("tiny/a--b", "'tiny/a--b' is not a repository's name"),
    ],
)
def test_what_cannot_be_pulled_leaves_no_model_behind(
    hub: Hub, pull: Pull, tmp_path: Path, repo: str, words: str
):
    complaint = pull(repo, HF_TOKEN=TOKEN).complaint
    assert words in complaint
    assert links(tmp_path) == []
    assert "model.safetensors" not in hub.downloads()


def test_a_revision_that_is_not_there(pull: Pull, tmp_path: Path):
    assert "has no revision 'v9'" in pull("tiny/story", "--revision", "v9").complaint
    assert links(tmp_path) == []


def test_a_commit_may_be_named(pull: Pull, tmp_path: Path):
    assert pull("tiny/story", "--revision", COMMIT).status == 0
    assert links(tmp_path) == ["tiny/story"]


def test_a_folder_of_ones_own_is_not_replaced(pull: Pull, tmp_path: Path):
    own = tmp_path / "data" / "models" / STORY
    own.mkdir(parents=True)
    (own / "notes").write_text("mine")
    assert "is a folder of your own" in pull("tiny/story").complaint
    assert (own / "notes").read_text() == "mine"


def test_a_model_is_not_pulled_into_another(pull: Pull, tmp_path: Path, tiny_models: Path):
    shutil.copytree(tiny_models / STORY, tmp_path / "data" / "models" / "tiny")
    assert "is a model itself" in pull("tiny/story").complaint


def test_a_models_directory_that_is_a_file(pull: Pull, tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models").write_text("")
    assert "cannot be made: Not a directory" in pull("tiny/story").complaint or os.getuid() == 0
