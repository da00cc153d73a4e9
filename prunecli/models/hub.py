"""Trained weights of the Hugging Face hub: the config and the safetensors of a pinned commit, and no other file."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from prunecli.errors import EnvironmentMissing, UsageError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MOST_BYTES = {CONFIG: 2**20, WEIGHTS: 2**34}
FORM = "timm:hf-hub:ORG/NAME@REVISION, where REVISION is a commit's 40 hexadecimal digits in lower case"
_PART = r"(?=[^/@]{1,96}[/@])[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"
_ADDRESS = re.compile(f"hf-hub:({_PART}/{_PART})@([0-9a-f]{{40}})")
_FLOATS = ("F32", "F16", "BF16")
"""What safetensors calls the types that a float32 holds every value of."""

Shape = tuple[int, ...]
Side = Annotated[int, Field(ge=1, le=4096)]


@dataclass(frozen=True)
class Address:
    """A repository's commit: what it holds never changes."""

    repository: str
    revision: str

    def __str__(self) -> str:
        return f"timm:hf-hub:{self.repository}@{self.revision}"


class ModelArgs(BaseModel):
    """The arguments that a stranger's config may give to an architecture."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    global_pool: Literal["avg", "max", "avgmax", "catavgmax", "token", "map"] | None = None
    img_size: Side | tuple[Side, Side] | None = None


class Config(BaseModel):
    """What is read of a repository's config; the rest of it changes nothing here."""

    model_config = ConfigDict(strict=True, frozen=True, protected_namespaces=())
    architecture: Annotated[str, Field(max_length=200)]
    model_args: ModelArgs | None = None


def address_of(name: str) -> Address | None:
    """The address that a name under `timm:` is; None for the plain name of an architecture.

    Raises:
        UsageError: it is an address, but not one of a pinned commit on the hub.
    """
    if ":" not in name:
        return None
    found = _ADDRESS.fullmatch(name)
    if found is None:
        raise UsageError(
            f"'timm:{name}' is not the address of a pinned commit; write {FORM} (what a branch, a tag or a folder "
            "holds may change)"
        )
    return Address(found[1], found[2])


def is_remote(name: str) -> bool:
    """Whether a name under `timm:` is of something on the hub; see `address_of`."""
    return address_of(name) is not None


def read_config(address: Address) -> Config:
    """The config of a commit.

    Raises:
        EnvironmentMissing: it is not on this machine, and the hub cannot be reached.
        UsageError: it is not there, is too large, or asks for what is not allowed.
    """
    try:
        return Config.model_validate_json(_fetched(address, CONFIG).read_bytes())
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(map(str, detail["loc"]))
        message = detail["msg"][:1].lower() + detail["msg"][1:]
        what = f"'{where}': {message}; found {str(detail['input'])[:80]!r}" if where else message[:200]
        allowed = ", ".join(ModelArgs.model_fields)
        raise UsageError(
            f"{address}: {CONFIG} is refused: {what} (it has to name an architecture of timm; of 'model_args' only "
            f"{allowed} may be given)"
        ) from error


def load_trained_(model: nn.Module, address: Address, about: str) -> None:
    """Put the commit's weights into the model; `about` says in errors what the model is.

    Names and shapes have to be the model's own. Only a classifier for another number of classes, or for none, is left
    out: the model's stays as it was drawn.

    Raises:
        EnvironmentMissing: the weights are not on this machine, and the hub cannot be reached.
        UsageError: they are not there, too large, no safetensors, not the model's, or not finite.
    """
    from safetensors import SafetensorError, safe_open

    path = _fetched(address, WEIGHTS)
    own = model.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            fresh = _fresh(_classifier(model, own), shapes)
            # Before any value is read: a stranger's shapes may come to any size.
            _check_tensors(address, about, {n: t for n, t in own.items() if n not in fresh}, shapes, fresh)
            types = {name: part.get_dtype() for name, part in slices.items()}
            for name in own.keys() - fresh:
                own[name] = _checked(address, name, types[name], file.get_tensor(name), own[name])
    except SafetensorError as error:
        raise UsageError(f"{address}: {WEIGHTS} cannot be read as safetensors: {error}") from error
    model.load_state_dict(own)


def _fetched(address: Address, name: str) -> Path:
    """The path of a commit's file in the user's hub cache; only one that is not there is fetched."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, revision = address.repository, address.revision
    try:
        path = Path(hf_hub_download(repository, name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        with _explained(address, name):
            _check_remote(address, name)
            path = Path(hf_hub_download(repository, name, revision=revision))
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{address}: {path} is no regular file; delete it, and it is fetched again")
    _check_size(address, name, found.st_size)
    return path


def _check_remote(address: Address, name: str) -> None:
    """Whether a file that is to be fetched is of this commit, and not too large."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    about = get_hf_file_metadata(hf_hub_url(address.repository, name, revision=address.revision))
    if about.commit_hash != address.revision:
        # A branch or a tag may be called like a commit.
        raise UsageError(f"{address}: the hub answers with commit {about.commit_hash}; write {FORM}")
    _check_size(address, name, about.size)


def _check_size(address: Address, name: str, size: int | None) -> None:
    if size is None or size > MOST_BYTES[name]:
        found = "no size is told" if size is None else f"it has {size:,} bytes"
        raise UsageError(f"{address}: {name} is refused: {found}; it may have {MOST_BYTES[name]:,} at most")


@contextmanager
def _explained(address: Address, name: str) -> Iterator[None]:
    """Say in one line what hinders a file from being fetched."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise EnvironmentMissing(
            f"{address}: the repository is gated; accept its terms on the hub, log in with `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise UsageError(
            f"{address}: the hub has no such repository or commit (or it is private: `hf auth login`); write {FORM}"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise UsageError(
            f"{address}: this commit has no {name}; weights are read from safetensors alone, never from a pickle: "
            f"choose a commit with {CONFIG} and {WEIGHTS}"
        ) from error
    except (errors.HTTPError, errors.XetDownloadError, OSError) as error:  # type: ignore[attr-defined]  # the client's
        if (
            isinstance(error, OSError)
            and error.errno
            and not isinstance(error, (ConnectionError, TimeoutError))
        ):
            raise  # a full disk, a folder that cannot be written
        first = str(error).strip().partition("\n")[0]
        raise EnvironmentMissing(
            f"{address}: {name} cannot be fetched: {first} (compute nodes often have no internet: run `prunecli plan` "
            "with --allow-download on a login node, with the same HF_HUB_CACHE)"
        ) from error


def _classifier(model: nn.Module, own: Mapping[str, Tensor]) -> dict[str, Shape]:
    """The classifier's tensors and their shapes, by what timm's registry says of the architecture."""
    told: Any = getattr(model, "pretrained_cfg", {}).get("classifier") or ()  # Any: timm publishes no types
    prefixes = tuple(f"{layer}." for layer in ((told,) if isinstance(told, str) else told))
    return {name: tuple(tensor.shape) for name, tensor in own.items() if name.startswith(prefixes)}


def _fresh(classifier: Mapping[str, Shape], shapes: Mapping[str, Shape]) -> set[str]:
    """The classifier's tensors where the file has them for another number of classes, or none of them; else nothing."""
    held = {name: shapes[name] for name in classifier if name in shapes}
    if held and (
        len(held) < len(classifier) or any(shape[1:] != classifier[n][1:] for n, shape in held.items())
    ):
        return set()
    classes, known = ({shape[:1] for shape in side.values()} for side in (classifier, held))
    return set(classifier) if not held or (len(known) == 1 and known != classes) else set()


def _check_tensors(
    address: Address, about: str, own: Mapping[str, Tensor], shapes: Mapping[str, Shape], fresh: set[str]
) -> None:
    """Whether the file has the tensors of the model, each in its shape, and no others."""
    wrong = [name for name, tensor in own.items() if shapes.get(name, tensor.shape) != tuple(tensor.shape)]
    if wrong:
        raise UsageError(
            f"{address}: '{wrong[0]}' has shape {shapes[wrong[0]]}, and {tuple(own[wrong[0]].shape)} in {about}; "
            "trained weights need images of the channels and the size that they were trained on"
        )
    lacking = [name for name in own if name not in shapes]
    foreign = sorted(shapes.keys() - own.keys() - fresh)
    for names, what in ((lacking, "lacks"), (foreign, "has")):
        if names:
            others = f" and {len(names) - 1} tensors more" if names[1:] else ""
            which = "" if what == "lacks" else "not "
            raise UsageError(
                f"{address}: {WEIGHTS} {what} '{names[0]}'{others}, which {about} has {which}".rstrip()
                + "; choose a commit whose weights timm itself saved"
            )


def _checked(address: Address, name: str, kind: str, found: Tensor, own: Tensor) -> Tensor:
    """A tensor of the file, as the model's own type."""
    if own.is_floating_point():
        if kind not in _FLOATS:
            raise UsageError(f"{address}: '{name}' is of type {kind}; weights are of {', '.join(_FLOATS)}")
        if wrong := int((~found.isfinite()).sum()):
            raise UsageError(f"{address}: '{name}' has {wrong:,} values that are NaN or infinite")
    elif found.dtype != own.dtype or (own.ndim and not found.equal(own)):
        # What is no number of its own, such as a table of positions, follows from the architecture.
        raise UsageError(f"{address}: '{name}' is not the architecture's own; its type is {kind}")
    return found.to(own.dtype)
