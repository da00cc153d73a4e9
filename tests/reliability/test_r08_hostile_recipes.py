"""R8: recipes of strangers get nowhere: each known attack is a named case, planned under an audit hook.

The cases are carried out in one child process, which tells of every file that is opened, every connection and
every process that is started; run as a program, this file is that child.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from scale import Figures, Scale

NAME = "R8 hostile recipes"
SECONDS, MEGABYTES = 20, 1_500
"""What a case may take."""

BASE = """model: lenet_300_100
data: digits
optimizer: sgd
learning_rate: 0.1
epochs: 1
batch_size: 128
seeds: [0]
procedure: [train]
"""
OUTSIDE = "leads to .*, which is outside .*--data-root DIR allows another folder"
HUB = "is not the address of a pinned commit; write timm:hf-hub:ORG/NAME@REVISION"
LAUGHS = "\n".join(
    ["a0: &a0 [lol]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
)
MERGES = "\n".join(
    ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 8))]
)


def with_(key: str, value: str) -> str:
    """The small recipe with one value changed or added."""
    lines = [line for line in BASE.splitlines() if not line.startswith(f"{key}:")]
    return "\n".join([*lines, f"{key}: {value}"]) + "\n"


READ: dict[str, tuple[str, str]] = {
    # The name of a case: the recipe, and what is said of it; empty where it is to be read.
    "exponent without a point": (with_("learning_rate", "1e-3"), ""),
    "exponent, upper case": (with_("learning_rate", "1E-3"), ""),
    "a word that was false": (with_("about", "no"), ""),
    "a key that was true": (with_("on", "1"), "has no option 'on'"),
    "a word for a number": (with_("epochs", "no"), "'epochs' should be a valid number; found 'no'"),
    "octal of YAML 1.1": (with_("batch_size", "010"), ""),
    "sexagesimal": (with_("epochs", "1:30"), "'epochs' should be a valid number; found '1:30'"),
    "a time": (with_("epochs", "12:30:45"), "found '12:30:45'"),
    "underscores": (with_("epochs", "1_000"), "found '1_000'"),
    "a key twice": (BASE + "epochs: 2\n", "'epochs' is given twice"),
    "a date": (with_("about", "2024-01-01"), ""),
    "a date that is none": (with_("about", "2024-13-45"), ""),
    "tag int": (with_("epochs", "!!int abc"), "the tag .* is not read"),
    "tag bool": (with_("epochs", "!!bool x"), "the tag .* is not read"),
    "tag timestamp": (with_("about", "!!timestamp x"), "the tag .* is not read"),
    "tag binary": (with_("about", "!!binary ////"), "the tag .* is not read"),
    "5000 digits": (with_("batch_size", "9" * 5000), "at most 63 bits"),
    "10^400": (with_("epochs", "1" + "0" * 400), "at most 63 bits"),
    "1e400": (with_("epochs", "1e400"), "too large"),
    "nan": (with_("epochs", ".nan"), "not a number that a recipe can hold"),
    "inf": (with_("epochs", ".inf"), "not a number that a recipe can hold"),
    "the word nan": (with_("epochs", "nan"), "found 'nan'"),
    "true for a number": (with_("epochs", "true"), "found True"),
    "a float for a whole number": (with_("batch_size", "3.0"), "found 3.0"),
    "text for a whole number": (with_("batch_size", "'3'"), "found '3'"),
    "depth 500": ("[" * 500, "nested deeper than 32"),
    "depth 100,000": (with_("about", "[" * 100_000), "nested deeper than 32"),
    "depth of mappings": (with_("about", "{a: " * 500), "nested deeper than 32"),
    "billion laughs": (LAUGHS, "at most 20,000 values"),
    "merge keys": (MERGES, "merge keys are not read"),
    "an alias inside its anchor": (with_("about", "&a [*a]"), "stands inside its own anchor"),
    "an escape": (with_("about", '"\\e[31m"'), "U\\+001B is not allowed"),
    "a raw escape": (with_("about", "\x1b[31m"), "U\\+001B is not allowed"),
    "right to left": (with_("about", "\u202e"), "U\\+202E is not allowed"),
    "right to left, escaped": (with_("about", '"\\u202e"'), "U\\+202E is not allowed"),
    "right to left in a comment": (BASE + "# \u202e", "U\\+202E is not allowed"),
    "zero width": (with_("about", "a\u200bb"), "U\\+200B is not allowed"),
    "a lone surrogate": (with_("about", '"\\ud800"'), "not allowed|out of range"),
    "a null character": (with_("about", '"\\0"'), "U\\+0000 is not allowed"),
    "10 MB of keys": ("\n".join(f"k{n}: {n}" for n in range(700_000)), "at most 256 KiB"),
    "a scalar of 1 MB": (with_("about", "a" * 1_000_000), "at most 256 KiB"),
    "100,000 items": (with_("observe", "[" + ",".join("a" * 100_000) + "]"), "20,000 values|256 KiB"),
    "tag python": (with_("about", "!!python/object/apply:os.system ['touch pwned']"), "the tag .* is not read"),
    "tag python name": (with_("about", "!!python/name:os.system"), "the tag .* is not read"),
    "two documents": (BASE + "---\na: 1\n", "one document"),
    "a list": ("- a\n", "a recipe is a mapping"),
    "nothing": ("", "a recipe needs"),
    "a sweep of a million": (with_("sweep", f"{{epochs: {list(range(1, 1001))}, seeds: {[[n] for n in range(1001)]}}}"), "at most"),
    "turns beyond count": (with_("procedure", "[train, {repeat: {times: 100000, stages: [{repeat: {times: 100000, stages: [rewind, train]}}]}}]"), "unrolls to more than 100,000 stages"),
    "a sweep of long procedures": (with_("procedure", "[train, {repeat: {times: 1, stages: [rewind, train]}}]") + f"sweep: {{procedure.1.times: {list(range(1000, 2000))}}}", "unroll to .* together"),
    # Numbers beyond what anything needs.
    "epochs": (with_("epochs", "1e308"), "less than or equal to 1000000"),
    "times": (with_("procedure", "[{repeat: {times: 1000000000000, stages: [train]}}]"), "less than or equal to 100000"),
    "batch size": (with_("batch_size", "9223372036854775807"), "less than or equal to"),
    "threads": (with_("threads", "1000000000"), "less than or equal to"),
    "seeds": (with_("seeds", "[9223372036854775807]"), "less than 2147483648"),
    "indices": (with_("examples", "{only: {indices: [4611686018427387904]}}"), "no training example"),
    "the first of many": (with_("examples", "{first: {count: 4611686018427387904}}"), "there are 1437"),
    "validation": (with_("validation", "1000000000000000000"), "leaves none to train on"),
    "padding": (with_("augmentation", "[{crop: {padding: 1000000000}}]"), "less than or equal to 512"),
    "image size": (with_("data", "{image_folder: {path: x, size: 1000000000}}"), "less than or equal to 4096"),
    "reading processes": (with_("data", "{image_folder: {path: x, workers: 1000000000}}"), "less than or equal to 256"),
    "classes": (with_("data", "{arrays: {path: x, classes: 1000000000}}"), "less than or equal to 1000000"),
    "a rising rate": (with_("learning_rate", f"{{steps: {{start: 1, at: {list(range(1, 61))}, factor: 1e6}}}}"), "beyond 1e\\+06"),
    "an exponential rate": (with_("learning_rate", "{exponential: {start: 1e-300, end: 1e300}}"), "less than or equal to 1000000"),
    # Models.
    "a hidden layer of 10^9": (with_("model", "{mlp: {hidden: [1000000000]}}"), "less than or equal to 1000000"),
    "a thousand wide layers": (with_("model", f"{{mlp: {{hidden: {[1_000_000] * 1000}}}}}"), "parameters, which takes .* there are"),
    "too many layers": (with_("model", f"{{mlp: {{hidden: {[1] * 1001}}}}}"), "at most 1000"),
    "width 1e9": (with_("model", "{lenet_300_100: {width: 1e9}}"), "less than or equal to 64"),
    "a wide and deep one": (with_("model", "{mlp: {hidden: [1000000, 1000000], width: 64}}"), "parameters, which takes .* there are"),
    "a negative width": (with_("model", "{lenet_5: {width: -1}}"), "greater than 0"),
    "a depth of 10^6": (with_("model", "cifar_resnet_1000000"), "unknown model"),
    "hf-hub": (with_("model", "timm:hf-hub:evil/model"), HUB),
    "hf_hub": (with_("model", "timm:hf_hub:evil/model@0123456789"), HUB),
    "hf-hub, a branch": (with_("model", "timm:hf-hub:evil/model@main"), HUB),
    "hf-hub, up and away": (with_("model", f"timm:hf-hub:../../outside@{'0' * 40}"), HUB),
    "hf-hub, another host": (with_("model", f"timm:hf-hub:http://127.0.0.1:9/a/b@{'0' * 40}"), HUB),
    "hf-hub, a commit": (with_("model", f"timm:hf-hub:evil/model@{'0' * 40}"), "give --allow-download if you trust it"),
    "hf-hub in a sweep": (BASE + f"sweep: {{model: [lenet_5, 'timm:hf-hub:evil/model@{'0' * 40}']}}\n", "give --allow-download"),
    "hf-hub with options": (with_("model", f"{{timm:hf-hub:evil/model@{'0' * 40}: {{drop_rate: 0.1}}}}"), "give --allow-download"),
    "a download allowed by the recipe": (with_("allow_download", "true"), "has no option 'allow_download'"),
    "a download allowed by an option": (with_("model", f"{{timm:hf-hub:evil/model@{'0' * 40}: {{allow_download: true}}}}"), "give --allow-download"),
    "local-dir": (with_("model", "timm:local-dir:/etc"), HUB),
    "a folder of weights": (with_("model", "timm:../../outside/model"), "unknown model"),
    "a checkpoint": (with_("model", "{timm:resnet18: {checkpoint_path: /etc/passwd}}"), "has no option 'checkpoint_path'"),
    "a weights address": (with_("model", "{timm:resnet18: {pretrained_cfg: {url: 'http://127.0.0.1:9/x'}}}"), "has no option 'pretrained_cfg'"),
    "pretrained": (with_("model", "{timm:resnet18: {pretrained: true}}"), "has no option 'pretrained'"),
    "other classes": (with_("model", "{timm:resnet18: {num_classes: 1000000000}}"), "has no option 'num_classes'"),
    "other channels": (with_("model", "{timm:resnet18: {in_chans: 0}}"), "has no option 'in_chans'"),
    "a rate that is text": (with_("model", "{timm:resnet18: {drop_rate: x}}"), "'drop_rate' should be a valid number"),
    "a rate of 10^9": (with_("model", "{timm:resnet18: {drop_path_rate: 1e9}}"), "less than 1"),
    "torchvision weights": (with_("model", "{torchvision:resnet18: {weights: DEFAULT}}"), "has no option 'weights'"),
    "torchvision elsewhere": (with_("model", "torchvision:../resnet18"), "unknown model"),
    # Code.
    "code as a model": (with_("model", "python:os:system"), "runs code of its own; give --allow-code"),
    "code as a criterion": (with_("procedure", "[train, {prune: {criterion: 'python:evil:run', fraction: 0.1}}]"), "runs code of its own"),
    "code as data": (with_("data", "python:evil:run"), "runs code of its own"),
    "code as labels": (with_("labels", "{python:evil:run: {x: 1}}"), "runs code of its own"),
    "code in a sweep": (BASE + "sweep: {model: ['python:evil:run', lenet_5]}\n", "runs code of its own"),
    "code allowed by the recipe": (with_("allow_code", "true") , "has no option 'allow_code'"),
    "code allowed by an option": (with_("model", "{python:evil:run: {allow_code: true}}"), "runs code of its own"),
    # Paths.
    "an absolute path": (with_("data", "{arrays: {path: OUTSIDE/own.npz}}"), OUTSIDE),
    "up and away": (with_("data", "{arrays: {path: ../outside/own.npz}}"), OUTSIDE),
    "up from below": (with_("data", "{arrays: {path: sub/../../outside/own.npz}}"), OUTSIDE),
    "a link beside the recipe": (with_("data", "{arrays: {path: RECIPES/link.npz}}"), OUTSIDE),
    "a folder that is a link": (with_("data", "{arrays: {path: RECIPES/linked/own.npz}}"), OUTSIDE),
    "a link under the data root": (with_("data", "{arrays: {path: ROOT/link.npz}}"), OUTSIDE),
    "HDF5 outside": (with_("data", "{arrays: {path: OUTSIDE/own.h5}}"), OUTSIDE),
    "a home": (with_("data", "{arrays: {path: ~/own.npz}}"), "~ and \\$ in a recipe are not expanded"),
    "another's home": (with_("data", "{arrays: {path: ~root/own.npz}}"), "not expanded"),
    "a variable": (with_("data", "{arrays: {path: $HOME/own.npz}}"), "not expanded"),
    "a password file": (with_("data", "{arrays: {path: /etc/passwd}}"), OUTSIDE),
    "the process": (with_("data", "{arrays: {path: /proc/self/environ}}"), OUTSIDE),
    "a device": (with_("data", "{arrays: {path: /dev/zero}}"), OUTSIDE),
    "images outside": (with_("data", "{image_folder: {path: OUTSIDE/images}}"), OUTSIDE),
    "images by a link": (with_("data", "{image_folder: {path: RECIPES/linked/images}}"), OUTSIDE),
    "a root outside": (with_("data", "{mnist: {root: OUTSIDE}}"), OUTSIDE),
    "a root at home": (with_("data", "{cifar10: {root: ~}}"), "should be a valid string"),
    "a root up and away": (with_("data", "{svhn: {root: ../outside}}"), OUTSIDE),
    "a long path": (with_("data", f"{{arrays: {{path: {'a/' * 20_000}x}}}}"), "at most 4096 characters"),
    "a long name": (with_("data", f"{{arrays: {{path: {'a' * 4_000}}}}}"), "is not on this machine"),
    "no path": (with_("data", "{arrays: {path: ''}}"), "no regular file"),
    # Files beside the recipe.
    "honest arrays": (with_("data", "{arrays: {path: honest.npz}}"), ""),
    "a pipe": (with_("data", "{arrays: {path: pipe}}"), "no regular file"),
    "a circle of links": (with_("data", "{arrays: {path: circle.npz}}"), "is not on this machine"),
    "objects in an npz": (with_("data", "{arrays: {path: objects.npz}}"), "cannot be read: Object arrays cannot be loaded"),
    "2^60 elements": (with_("data", "{arrays: {path: huge.npz}}"), "cannot be read"),
    "2^36 elements": (with_("data", "{arrays: {path: large.npz}}"), "cannot be read"),
    "a zip bomb": (with_("data", "{arrays: {path: bomb.npz}}"), "is no honest array: .* unpack to"),
    "another packing": (with_("data", "{arrays: {path: lzma.npz}}"), "packed in another way"),
    "an array that is a zip too": (with_("data", "{arrays: {path: both.npz}}"), "a single array"),
    "a pickle": (with_("data", "{arrays: {path: pickle.npz}}"), "neither an .npz nor an HDF5 file"),
    "an image bomb": (with_("data", "{image_folder: {path: bombs, size: 8, resize: 8, workers: 0}}"), "cannot be decoded"),
    "a pipe among images": (with_("data", "{image_folder: {path: pipes}}"), "no regular file"),
    "labels below 0": (with_("data", "{arrays: {path: negative.npz}}"), "labels -1 to"),
    "labels beyond the classes": (with_("data", "{arrays: {path: honest.npz, classes: 2}}"), "not within 0 to 1"),
    "no test example": (with_("data", "{arrays: {path: untested.npz}}"), "the test split has 0 images"),
}  # fmt: skip

FILE_NAMES = (
    *(
        "../../x",
        "-rf",
        "con",
        "con.x",
        "NUL",
        "lpt1.a.b",
        "..",
        "...",
        "a..b",
        "🙂",
        "a" * 200,
        " ",
        "a\nb",
        "\x1b[31m",
    ),
    *(
        "x;rm -rf ~",
        "$(id)",
        "`id`",
        "--help",
        "a/b/../c",
        "é",
        ".hidden",
        "-",
        "a|b",
        "CoM9.",
        "_",
        "\u202egnp",
    ),
)
"""What a recipe's file may be called, before `.yaml`."""
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def check(scale: Scale, folder: Path) -> Figures:
    """Every case: what is said, and that nothing was opened, called or started that should not be."""
    del scale
    _lay_out(folder)
    environ = {**os.environ, "HOME": str(folder / "home"), "PRUNECLI_DATA": str(folder / "root")}
    program = [sys.executable, __file__, str(folder)]
    ended = subprocess.run(
        program, env=environ, cwd=folder / "work", capture_output=True, text=True, timeout=500, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    results: dict[str, dict[str, Any]] = json.loads(ended.stdout.splitlines()[-1])  # Any: JSON
    assert results.keys() == READ.keys()
    faults = [f"case '{name}' {fault}" for name in READ for fault in _faults(name, results[name])]
    assert not faults, "\n".join(faults)
    assert not (folder / "work" / "pwned").exists()
    assert not (folder / "recipes" / "pwned").exists()
    slowest = max(results.values(), key=lambda found: found["seconds"])
    return {
        "cases": len(READ) + _check_labels(),
        "files read outside": 0,
        "connections": 0,
        "processes": 0,
        "slowest (s)": round(slowest["seconds"], 1),
    }


def _faults(name: str, found: dict[str, Any]) -> Iterator[str]:  # Any: JSON
    """What a case did that it should not have done."""
    expected = READ[name][1]
    if found["seen"]:
        yield f"did {found['seen']}"
    if found["kind"] == "defect" or (not expected and found["kind"] != "read"):
        yield f"ends as {found['kind']}: {found['said'][:600]!r}"
    if expected and not re.search(expected, found["said"], re.DOTALL):
        yield f"says {found['said'][:600]!r}, not {expected!r}"
    if found["megabytes"] > MEGABYTES:
        yield f"took {found['megabytes']} MB"


def _check_labels() -> int:
    """Whether every recipe's name makes a folder's name that is one everywhere."""
    import prunecli.catalog  # noqa: F401  (registers what recipes name)
    from prunecli.recipe.load import load_text

    for stem in FILE_NAMES:
        (point,) = load_text(BASE, "x.yaml", stem=stem).points
        name = f"{point.label}-01234567"
        assert LABEL.fullmatch(name), f"{stem!r} gives {name!r}"
        assert ".." not in name, f"{stem!r} gives {name!r}"
        assert not RESERVED.fullmatch(name), f"{stem!r} gives {name!r}"
    values = "prunable: {include: [x]}\nsweep: {prunable.include.0: ['../../x', 'con', '🙂', 'x']}\n"
    swept = load_text(BASE + values, "x.yaml", stem="..")
    assert all(LABEL.fullmatch(f"{point.label}-01234567") for point in swept.points)
    return len(FILE_NAMES) + 1


def _arrays(train: int = 12, test: int = 6, low: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    draw = np.random.default_rng(0)
    made = {}
    for split, count in (("train", train), ("test", test)):
        made[f"x_{split}"] = draw.integers(0, 255, (count, 6, 5), np.uint8)
        made[f"y_{split}"] = np.arange(count) % 3 + low
    return made


def _header(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _packed(path: Path, first: bytes, how: int = zipfile.ZIP_DEFLATED) -> None:
    """An .npz whose `x_train` has these bytes."""
    with zipfile.ZipFile(path, "w", how) as packed:
        packed.writestr("x_train.npy", first)
        for name in ("y_train", "x_test", "y_test"):
            written = io.BytesIO()
            np.save(written, _arrays()[name])
            packed.writestr(f"{name}.npy", written.getvalue())


def _bomb(path: Path, size: int) -> None:
    """An .npz whose `x_train` is zeros beyond reason, packed to a thousandth."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        with packed.open("x_train.npy", "w", force_zip64=True) as member:
            member.write(_header((size // 100, 10, 10)))
            for _ in range(size // 2**20):
                member.write(bytes(2**20))
        for name in ("y_train", "x_test", "y_test"):
            packed.writestr(f"{name}.npy", b"")


class _Touch:
    """Unpickled, it leaves a mark."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, ("pwned", "w")


def _lay_out(folder: Path) -> None:
    """Canaries outside, in the home and under links; hostile files beside the recipes."""
    import pickle

    import h5py
    from PIL import Image

    for name in ("recipes", "outside/images/train/a", "outside/images/val/a", "home", "root", "work"):
        (folder / name).mkdir(parents=True)
    recipes, outside, root = folder / "recipes", folder / "outside", folder / "root"
    for canary in (outside, folder / "home"):
        np.savez(canary / "own.npz", **_arrays())
        with h5py.File(canary / "own.h5", "w") as file:
            for name, array in _arrays().items():
                file[name] = array
    for split in ("train", "val"):
        Image.new("RGB", (8, 8)).save(outside / f"images/{split}/a/x.png")
    for place in (recipes, root):
        (place / "link.npz").symlink_to(outside / "own.npz")
    (recipes / "linked").symlink_to(outside)
    (recipes / "circle.npz").symlink_to(recipes / "circle.npz")
    os.mkfifo(recipes / "pipe")
    np.savez(recipes / "honest.npz", **_arrays())
    np.savez(recipes / "negative.npz", **_arrays(low=-1))
    np.savez(recipes / "untested.npz", **_arrays(test=0))
    np.savez(recipes / "objects.npz", **{**_arrays(), "x_train": np.array([_Touch()], dtype=object)})
    (recipes / "pickle.npz").write_bytes(pickle.dumps(_Touch()))
    _packed(recipes / "huge.npz", _header((2**60,)))
    _packed(recipes / "large.npz", _header((2**36,)) + bytes(100))
    _packed(recipes / "lzma.npz", b"", zipfile.ZIP_LZMA)
    _bomb(recipes / "bomb.npz", 2**29)
    single = io.BytesIO()
    np.save(single, np.zeros(3))
    (recipes / "both.npz").write_bytes(single.getvalue() + (recipes / "honest.npz").read_bytes())
    for split in ("train", "val"):
        for name in ("bombs", "pipes"):
            (recipes / name / split / "a").mkdir(parents=True)
        # A header alone says how large an image is; nothing is stored of it.
        header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
        chunk = (
            struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib_crc(b"IHDR" + header))
        )
        (recipes / "bombs" / split / "a/x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
        os.mkfifo(recipes / "pipes" / split / "a/x.png")


def zlib_crc(data: bytes) -> int:
    """The check sum of a PNG's chunk."""
    import zlib

    return zlib.crc32(data)


WATCHED = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "webbrowser.open"),
    *("os.remove", "os.rename", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"),
)  # fmt: skip
"""The audit events that no reading of a recipe causes; `open` is looked at by its path."""


def _child(folder: Path) -> None:
    """Carry out the cases; print what became of each as JSON."""
    import prunecli.catalog
    import prunecli.plan

    seen: list[str] = []
    allowed = [str(folder / name) for name in ("recipes", "root", "work")]
    allowed += [
        str(Path(prunecli.catalog.__file__).parent.parent),
        sys.prefix,
        sys.base_prefix,
        "/usr/lib",
        "/lib",
    ]
    allowed += [
        "/proc/meminfo",
        "/proc/cpuinfo",
        "/proc/self/",
        "/sys/",
        os.devnull,
        "/dev/urandom",
        "/etc/localtime",
    ]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in WATCHED:
            seen.append(f"{event} {arguments!r}"[:300])
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.fsdecode(os.path.realpath(arguments[0]))
            if not path.startswith(tuple(map(os.path.realpath, allowed))) or "environ" in path:
                seen.append(f"opened {path}")

    for model in (
        "lenet_5",
        "timm:resnet18",
        "torchvision:resnet18",
    ):  # what their import opens is no recipe's doing
        _plan(folder, "warm", with_("model", model))
    sys.addaudithook(hook)
    results = {}
    for name, (text, _) in READ.items():
        seen.clear()
        results[name] = {**_plan(folder, name, text), "seen": list(seen)}
    print(json.dumps(results))


def _plan(folder: Path, name: str, text: str) -> dict[str, object]:
    """What `prunecli plan` says of a recipe, and what it took."""
    import time

    from prunecli import plan
    from prunecli.cli.recipes import load_recipe, make_settings
    from prunecli.errors import PrunecliError
    from prunecli.places import Places

    path = folder / "recipes" / f"{re.sub('[^a-z]', '-', name)}.yaml"
    for word in ("outside", "recipes", "root"):
        text = text.replace(f"{word.upper()}", str(folder / word))
    path.write_text(text, encoding="utf-8")
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    kind, said = "read", ""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS)  # the end of the child where a case hangs: its output then lacks the case
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            recipe = load_recipe(str(path), (), "", Places(), allow_code=False)
            settings = make_settings(folder / "work/runs", "cpu", None, download=False, source=recipe.source)
            plans = plan.make_plan(recipe, settings, timed=False)
            missing = [one.missing for one in plans if one.missing]
            kind, said = ("missing", missing[0]) if missing else _looked_at(plans, settings)
    except PrunecliError as error:
        kind, said = "refused", str(error)
    except Exception as error:  # noqa: BLE001  (what is no PrunecliError is a defect)
        kind, said = "defect", f"{type(error).__name__}: {error}"
    signal.alarm(0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    return {"kind": kind, "said": said, "megabytes": grown, "seconds": time.monotonic() - began}


def _looked_at(plans: list[Any], settings: Any) -> tuple[str, str]:  # Any: as prunecli.plan has them
    """The outcome once the first images are decoded as well, which `plan` leaves for later."""
    import torch

    from prunecli.datasets.values import Augment

    for plan in plans:
        dataset = plan.point.experiment.data(settings.roots)
        next(iter(dataset.train.images.batches([torch.arange(1)], Augment(), torch.device("cpu"))))
    return "read", ""


def test_hostile_recipes_get_nowhere(tmp_path: Path) -> None:
    from scale import SHORT

    check(SHORT, tmp_path)


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
