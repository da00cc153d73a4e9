"""Trained weights of the hub: a pinned commit's config and safetensors, asked for, checked, kept, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import SMALL, same
from huggingface_hub import constants
from safetensors.torch import save
from typer.testing import CliRunner

from prunecli.cli.app import app
from prunecli.engine import carry_out_all
from prunecli.errors import EnvironmentMissing, RecipeError, UsageError
from prunecli.lab import make_lab
from prunecli.models.hub import MOST_BYTES, address_of
from prunecli.plan import make_plan
from prunecli.recipe.load import Recipe, load_text
from prunecli.recipe.writing import dump
from prunecli.registry import Choice
from prunecli.runs import Settings, run_digest
from prunecli.task import Task

DIGITS = Task((1, 8, 8), 10)
REVISION = "0123456789abcdef0123456789abcdef01234567"
OTHER = "76543210fedcba9876543210fedcba9876543210"
NAME = f"timm:hf-hub:org/tiny@{REVISION}"
PRUNING = "procedure=[train, {prune: {fraction: 0.5}}, rewind, train]"
FORM = "write timm:hf-hub:ORG/NAME@REVISION"
CONFIG = {
    "architecture": "test_resnet",
    "num_classes": 10,
    "pretrained_cfg": {"classifier": "conv1", "url": "x"},
}
FEATURES = timm.create_model("test_resnet").num_features
Tensors = dict[str, torch.Tensor]


def trained(classes: int = 10, channels: int = 1, name: str = "test_resnet", **options: Any) -> Tensors:
    """A small network's weights, as if they had been trained."""
    torch.manual_seed(7)
    return timm.create_model(name, num_classes=classes, in_chans=channels, **options).state_dict()


@dataclass
class Cache:
    """The user's cache of the hub, laid out by hand as the hub's own library does."""

    folder: Path

    def hold(self, name: str, content: bytes, revision: str = REVISION) -> Path:
        """Put a file of a commit there: the snapshot holds a link to a blob."""
        repository = self.folder / "models--org--tiny"
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        path = repository / "snapshots" / revision / name
        for one in (blob, path, repository / "refs/main"):
            one.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        (repository / "refs/main").write_text(revision)
        path.unlink(missing_ok=True)
        path.symlink_to(os.path.relpath(blob, path.parent))
        return path

    def hold_both(self, tensors: Tensors, config: object = CONFIG, revision: str = REVISION) -> None:
        """Put the config and the weights of a commit there."""
        self.hold("config.json", json.dumps(config).encode(), revision)
        self.hold("model.safetensors", save(tensors), revision)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """An empty cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    return Cache(tmp_path / "hub")


def built(name: str = NAME, task: Task = DIGITS, seed: int = 0, **options: object) -> torch.nn.Module:
    torch.manual_seed(seed)
    model: torch.nn.Module = Choice("models", name, options)(task)
    return model


def loaded(*overrides: str, name: str = NAME, allow_download: bool = True) -> Recipe:
    return load_text(SMALL, "small.yaml", [f"model={name}", *overrides], allow_download=allow_download)


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:org/tiny",
        "hf-hub:org/tiny@main",
        "hf-hub:org/tiny@v1.0",
        f"hf-hub:org/tiny@{REVISION[:39]}",
        f"hf-hub:org/tiny@{REVISION}0",
        f"hf-hub:org/tiny@{REVISION.upper()}",
        f"hf-hub:org/tiny@{REVISION}\n",
        f"hf-hub:org/tiny@{REVISION}?x",
        f"hf-hub:tiny@{REVISION}",
        f"hf-hub:a/b/c@{REVISION}",
        f"hf-hub:../tiny@{REVISION}",
        f"hf-hub:org/..@{REVISION}",
        f"hf-hub:org/a..b@{REVISION}",
        f"hf-hub:org/a--b@{REVISION}",
        f"hf-hub:org/{'a' * 97}@{REVISION}",
        f"hf-hub:/org/tiny@{REVISION}",
        f"hf-hub:org/tiny@{REVISION}@{REVISION}",
        f"HF-HUB:org/tiny@{REVISION}",
        f"hf_hub:org/tiny@{REVISION}",
        f"local-dir:/etc@{REVISION}",
        "local-dir:/etc",
        "https://host/model.safetensors",
    ],
)
def test_only_a_pinned_commit_is_an_address(cache: Cache, name: str) -> None:
    with pytest.raises(RecipeError, match=FORM) as caught:
        loaded(name=json.dumps(f"timm:{name}"))
    assert "argument:1:7" in str(caught.value)
    with pytest.raises(UsageError, match=FORM):
        built(f"timm:{name}")


@pytest.mark.parametrize(
    "repository", ["timm/resnet18.a1_in1k", "a/b", "_o-r.g/T1-n_y.x", f"{'a' * 96}/{'b' * 96}"]
)
def test_an_address_reads_back(repository: str) -> None:
    address = address_of(f"hf-hub:{repository}@{REVISION}")
    assert address is not None
    assert (address.repository, address.revision) == (repository, REVISION)
    assert str(address) == f"timm:hf-hub:{repository}@{REVISION}"


@pytest.mark.parametrize("overrides", [[], ["model.drop_rate=0.1"], ["initialization=pytorch"]])
def test_nothing_of_the_hub_is_read_that_is_not_allowed(cache: Cache, overrides: list[str]) -> None:
    cache.hold_both(trained())
    with pytest.raises(RecipeError, match=r"argument:1:7: .*give --allow-download if you trust it"):
        loaded(*overrides, allow_download=False)
    with pytest.raises(RecipeError, match="give --allow-download"):
        load_text(SMALL + f"sweep: {{model: [lenet_5, '{NAME}']}}\n", "small.yaml")


def test_a_model_begins_as_its_commit_has_it(cache: Cache) -> None:
    cache.hold_both(trained())
    assert same(built(seed=1).state_dict(), trained())


def test_an_architecture_of_a_fixed_size_begins_as_its_commit_has_it(cache: Cache) -> None:
    weights = trained(name="test_vit", img_size=32, channels=3, global_pool="avg")
    cache.hold_both(
        weights, {"architecture": "test_vit", "model_args": {"img_size": 32, "global_pool": "avg"}}
    )
    model = built(task=Task((3, 32, 32), 10))
    assert same(model.state_dict(), weights)
    assert model.global_pool == "avg"
    for size in (16, 48):
        with pytest.raises(
            UsageError, match=rf"the weights are for images of \(32, 32\); the data's are \({size}"
        ):
            built(task=Task((3, size, size), 10))


def test_rates_of_the_recipe_reach_the_model(cache: Cache) -> None:
    cache.hold_both(trained())
    assert built(drop_rate=0.3).drop_rate == 0.3


@pytest.mark.parametrize("classes", [3, 1000, None])
def test_a_classifier_for_other_classes_is_drawn_afresh_and_all_else_kept(
    cache: Cache, classes: int | None
) -> None:
    weights = trained(classes or 10)
    if classes is None:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("fc.")}
    cache.hold_both(weights)
    one, again, other = (built(seed=seed).state_dict() for seed in (1, 1, 2))
    assert same(one, again)
    drawn = {name for name in one if name not in weights or not torch.equal(one[name], weights[name])}
    assert drawn == {"fc.weight", "fc.bias"}
    assert {name for name in one if not torch.equal(one[name], other[name])} <= drawn
    assert not torch.equal(one["fc.weight"], other["fc.weight"])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_shorter_floats_keep_their_values(cache: Cache, kind: torch.dtype) -> None:
    short = {
        name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in trained().items()
    }
    cache.hold_both(short)
    found = built().state_dict()
    assert {tensor.dtype for tensor in found.values()} == {torch.float32, torch.int64}
    assert same(found, {name: tensor.to(found[name].dtype) for name, tensor in short.items()})


def with_(**changed: object) -> Callable[[Tensors], Tensors]:
    """Tensors with some replaced, or left out where they are None; dots are written `__`."""
    names = {name.replace("__", "."): value for name, value in changed.items()}
    return lambda tensors: {name: value for name, value in {**tensors, **names}.items() if value is not None}  # type: ignore[dict-item]


HOSTILE_WEIGHTS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "other channels": (lambda _: trained(channels=3), r"'conv1\.0\.weight' has shape \(16, 3, 3, 3\), and \(16, 1, 3, 3\) in timm:test_resnet .*channels"),
    "another architecture": (lambda _: trained(name="test_vit", img_size=32), "lacks 'conv1.0.weight' and .* tensors more"),
    "a scalar": (with_(conv1__0__weight=torch.tensor(1.0)), r"'conv1\.0\.weight' has shape \(\)"),
    "a vast shape of nothing": (with_(conv1__0__weight=torch.zeros(2**40, 0)), r"has shape \(1099511627776, 0\)"),
    "a tensor too few": (with_(conv1__0__weight=None), r"lacks 'conv1\.0\.weight', which timm:test_resnet"),
    "a tensor too many": (with_(extra=torch.zeros(1)), r"has 'extra', which .* has not; choose"),
    "half a classifier": (with_(fc__bias=None), r"lacks 'fc\.bias'"),
    "two numbers of classes": (with_(fc__weight=torch.zeros(7, FEATURES)), r"'fc\.weight' has shape \(7, "),
    "half a classifier for others": (with_(fc__weight=torch.zeros(7, FEATURES), fc__bias=None), r"'fc\.weight' has shape \(7, "),
    "a classifier of other features": (with_(fc__weight=torch.zeros(7, 3), fc__bias=torch.zeros(7)), r"'fc\.weight' has shape \(7, 3\)"),
    "NaN": (with_(fc__bias=torch.tensor([0.0] * 8 + [torch.nan] * 2)), r"'fc\.bias' has 2 values that are NaN or infinite"),
    "infinity": (with_(conv1__0__weight=torch.full((16, 1, 3, 3), torch.inf)), r"'conv1\.0\.weight' has 144 values"),
    "double precision": (with_(fc__bias=torch.zeros(10, dtype=torch.float64)), r"'fc\.bias' is of type F64; weights are of F32"),
    "whole numbers": (with_(fc__bias=torch.zeros(10, dtype=torch.int64)), r"'fc\.bias' is of type I64"),
    "a counter that is none": (with_(conv1__1__num_batches_tracked=torch.tensor(0.5)), "num_batches_tracked' is not the architecture's own"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE_WEIGHTS)
def test_weights_that_are_not_the_architectures_are_refused(cache: Cache, case: str) -> None:
    change, said = HOSTILE_WEIGHTS[case]
    cache.hold_both(change(trained()))
    with pytest.raises(UsageError, match=rf"^timm:hf-hub:org/tiny@{REVISION}: .*{said}") as caught:
        built()
    assert "\n" not in str(caught.value)


HOSTILE_CONFIGS = {
    "a path": ({"architecture": "../../x"}, r"timm has no architecture '\.\./\.\./x'"),
    "an address": ({"architecture": "hf-hub:a/b"}, "timm has no architecture 'hf-hub:a/b'"),
    "a tag": ({"architecture": "test_resnet.r160_in1k"}, "timm has no architecture .*did you mean 'test_resnet"),
    "a long name": ({"architecture": "a" * 10_000}, "'architecture': string should have at most 200 characters"),
    "no architecture": ({}, "'architecture': field required"),
    "a number": ({"architecture": 3}, "'architecture': input should be a valid string; found '3'"),
    "classes": ({**CONFIG, "model_args": {"num_classes": 10**9}}, "'model_args.num_classes': .* only global_pool, img_size"),
    "depths": ({**CONFIG, "model_args": {"layers": [10**9] * 4}}, "'model_args.layers': "),
    "a function": ({**CONFIG, "model_args": {"norm_layer": "os.system"}}, "'model_args.norm_layer': "),
    "a checkpoint": ({**CONFIG, "model_args": {"checkpoint_path": "/etc/passwd"}}, "'model_args.checkpoint_path': "),
    "a size": ({**CONFIG, "model_args": {"img_size": 10**9}}, "'model_args.img_size"),
    "a size of others": ({**CONFIG, "model_args": {"img_size": [8, 9]}}, r"the weights are for images of \(8, 9\)"),
    "a pool": ({**CONFIG, "model_args": {"global_pool": "os.system"}}, "'model_args.global_pool': "),
    "a pool of others": ({**CONFIG, "model_args": {"global_pool": "map"}}, "cannot be made with"),
    "a list": ([CONFIG], "is refused"),
    "a deep list": ("DEEP", "is refused: "),
    "no JSON": ("{", "is refused: invalid JSON"),
    "no text": ("\ud800", "is refused: "),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE_CONFIGS)
def test_a_config_that_asks_for_more_is_refused(cache: Cache, case: str) -> None:
    config, said = HOSTILE_CONFIGS[case]
    text = config if isinstance(config, str) else json.dumps(config)
    content = b"[" * 100_000 if text == "DEEP" else text.encode(errors="surrogatepass")
    cache.hold("config.json", content)
    cache.hold("model.safetensors", save(trained()))
    with pytest.raises(UsageError, match=rf"^timm:hf-hub:org/tiny@{REVISION}:? .*{said}") as caught:
        built()
    assert len(str(caught.value)) < 12_000


@pytest.mark.parametrize("name", MOST_BYTES)
def test_a_large_file_is_refused_unread(cache: Cache, name: str) -> None:
    cache.hold_both(trained())
    with cache.hold(name, b"").open("r+b") as file:
        file.truncate(MOST_BYTES[name] + 1)
    with pytest.raises(UsageError, match=rf"{name} is refused: it has .*at most"):
        built()


def test_what_is_no_file_is_not_waited_for(cache: Cache) -> None:
    cache.hold_both(trained())
    path = cache.hold("model.safetensors", b"")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UsageError, match="is no regular file"):
        built()


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, pickle.dumps({"fc.weight": 3}), save(trained())[:-1]])
def test_what_is_no_safetensors_is_refused(cache: Cache, content: bytes) -> None:
    cache.hold_both(trained())
    cache.hold("model.safetensors", content)
    with pytest.raises(UsageError, match="cannot be read as safetensors"):
        built()


def test_what_is_not_there_says_how_to_get_it(cache: Cache) -> None:
    with pytest.raises(
        EnvironmentMissing, match=rf"org/tiny@{REVISION}: config.json cannot be fetched: .*HF_HUB_CACHE"
    ) as caught:
        built()
    assert "\n" not in str(caught.value)
    cache.hold("config.json", json.dumps(CONFIG).encode())
    cache.hold("pytorch_model.bin", pickle.dumps(trained()))
    with pytest.raises(EnvironmentMissing, match=r"model\.safetensors cannot be fetched"):
        built()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("initialization=kaiming_normal", "argument:1:16: initialization 'kaiming_normal' would throw the trained weights"),
        ("procedure=[train, reinitialize, train]", "argument:1:19: 'reinitialize' would not draw afresh"),
        ("procedure=[train, {repeat: {times: 2, stages: [reinitialize, rewind, train]}}]", "'reinitialize' would not"),
    ],
)  # fmt: skip
def test_what_would_throw_trained_weights_away_is_a_mistake(cache: Cache, override: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        loaded(override)
    loaded("initialization=own")
    load_text(SMALL, "small.yaml", ["model=timm:test_resnet", override])


def test_a_stem_that_replaces_trained_layers_is_refused(cache: Cache) -> None:
    cache.hold_both(trained())
    with pytest.raises(UsageError, match="'stem: cifar' would replace trained layers"):
        built(stem="cifar")


def test_another_commit_is_another_experiment(cache: Cache) -> None:
    names = (NAME, NAME.replace(REVISION, OTHER), NAME.replace("tiny", "other"), "timm:test_resnet")
    recipes = [loaded(name=name) for name in names]
    assert len({run_digest(recipe.points[0].experiment, "f") for recipe in recipes}) == 4
    text = dump(recipes[0].points[0].experiment)
    again = load_text(text, "recipe.yaml", allow_download=True).points[0].experiment
    assert again == recipes[0].points[0].experiment
    assert NAME in text


def test_a_run_begins_from_the_weights_and_says_so(cache: Cache, tmp_path: Path, digits: Any) -> None:
    cache.hold_both(trained())
    recipe = loaded(PRUNING, "epochs=1")
    lab = make_lab(recipe.points[0].experiment, 0, digits, torch.device("cpu"))
    assert same(lab.initial().weights, {n: t for n, t in trained().items() if n in lab.initial().weights})
    (plan,) = make_plan(recipe, Settings(runs=tmp_path / "runs"), timed=False)
    assert plan.parameters == sum(tensor.numel() for tensor in lab.initial().weights.values())
    (finished,) = carry_out_all(recipe, Settings(runs=tmp_path / "runs"), lambda _event: None)
    assert finished.complete
    assert NAME in (finished.folder.path / "recipe.yaml").read_text()
    assert json.loads((finished.folder.path / "run.json").read_text())["recipe"]["model"] == {
        NAME: {"drop_path_rate": None, "drop_rate": None, "stem": "own"}
    }


@pytest.mark.parametrize("command", ["plan", "show", "train", "prune"])
def test_each_command_that_reads_recipes_asks_for_the_option(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    cache.hold_both(trained())
    words = [command, "small.yaml", f"model={NAME}", "epochs=1"]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2
    assert "give --allow-download if you trust it" in refused.stderr
    done = CliRunner().invoke(app, [*words, "--allow-download"])
    assert done.exit_code == 0, done.output
    assert NAME in done.stdout or command in ("train", "prune")


def test_processes_side_by_side_find_the_cache_by_themselves(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.hold_both(trained(3))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache.folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe = loaded("epochs=1", "seeds=[0, 1]")
    (finished,) = carry_out_all(recipe, Settings(runs=tmp_path / "runs", workers=2), lambda _event: None)
    assert finished.complete
    done = CliRunner().invoke(app, ["compare", str(finished.folder.path), "--format", "json"])
    assert json.loads(done.stdout)["runs"][0]["seeds"] == [0, 1]


@dataclass
class Hub:
    """A hub on this machine's loopback: what it holds, and what it is asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    error: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer as the hub does: commit, size and check sum are in the head."""
        self.asked.append(f"{request.command} {request.path}")
        content = self.files.get(request.path)
        status = self.status if self.status != 200 else 404 if content is None else 200
        content = content or b""
        error = self.error or ("EntryNotFound" if status == 404 else "")
        told = {
            "X-Repo-Commit": REVISION,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Content-Length": str(len(content)),
            **({"X-Error-Code": error} if error else {}),
            **self.headers,
        }
        request.send_response(status)
        for name, value in told.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content)


@pytest.fixture
def hub(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the hub's library asks in place of the public one."""
    one = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            one.answer(self)

        do_HEAD = do_GET

        def log_message(self, *_words: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield one
        server.shutdown()


PLACE = f"/org/tiny/resolve/{REVISION}/"


def filled(hub: Hub) -> None:
    hub.files = {
        PLACE + "config.json": json.dumps(CONFIG).encode(),
        PLACE + "model.safetensors": save(trained()),
        PLACE + "pytorch_model.bin": pickle.dumps(trained()),
    }


def test_two_files_are_fetched_once_and_no_others(hub: Hub) -> None:
    filled(hub)
    assert same(built().state_dict(), trained())
    assert {line.partition(" ")[2] for line in hub.asked} == {
        PLACE + "config.json",
        PLACE + "model.safetensors",
    }
    assert sum(line.startswith("GET") for line in hub.asked) == 2
    hub.asked.clear()
    built()
    assert hub.asked == []


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (
            {"X-Linked-Size": str(2**20 + 1)},
            "config.json is refused: it has 1,048,577 bytes; it may have 1,048,576 at most",
        ),
        ({"X-Linked-Size": str(2**60)}, "config.json is refused: it has 1,152,921,504,606,846,976 bytes"),
        ({"X-Repo-Commit": OTHER}, f"the hub answers with commit {OTHER}; write timm:hf-hub:ORG"),
    ],
)
def test_nothing_is_fetched_that_is_too_large_or_of_another_commit(
    hub: Hub, headers: dict[str, str], said: str
) -> None:
    filled(hub)
    hub.headers = headers
    with pytest.raises(UsageError, match=said):
        built()
    assert not [line for line in hub.asked if line.startswith("GET")]


def test_a_repository_of_pickles_is_refused_unfetched(hub: Hub) -> None:
    filled(hub)
    del hub.files[PLACE + "model.safetensors"]
    with pytest.raises(UsageError, match=r"has no model\.safetensors; .*never from a pickle"):
        built()
    assert not [line for line in hub.asked if "pytorch_model" in line]


@pytest.mark.parametrize(
    ("status", "error", "kind", "said"),
    [
        (404, "RepoNotFound", UsageError, "the hub has no such repository or commit"),
        (404, "RevisionNotFound", UsageError, "the hub has no such repository or commit"),
        (403, "GatedRepo", EnvironmentMissing, "the repository is gated"),
        (500, "", EnvironmentMissing, "config.json cannot be fetched: .*HF_HUB_CACHE"),
    ],
)
def test_what_the_hub_answers_is_said_in_a_line(
    hub: Hub, status: int, error: str, kind: type[Exception], said: str
) -> None:
    hub.status, hub.error = status, error
    with pytest.raises(kind, match=rf"^timm:hf-hub:org/tiny@{REVISION}: {said}") as caught:
        built()
    assert "\n" not in str(caught.value)


def test_a_hub_that_nobody_answers_for_is_told_apart_from_a_full_disk(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    filled(hub)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file/hub"))
    with pytest.raises(NotADirectoryError):
        built()
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(EnvironmentMissing, match=r"config\.json cannot be fetched"):
        built()
