"""Processes that decode image files, and stay: from one epoch and evaluation to the next."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from multiprocessing.util import Finalize

import torch
from torch import Tensor
from torch.utils import data as torch_data

# A worker process that starts afresh looks augmentations up by name: it must have them registered.
import prunecli.augmentations  # noqa: F401
from prunecli.cores import share_of_cores
from prunecli.datasets.values import Augment
from prunecli.errors import EnvironmentMissing, PrunecliError

MOST_CHOSEN = 32
"""More processes than this would only take memory: so many feed what a GPU can train on."""
_IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
_SIGNALS = (*_IGNORED, signal.SIGTERM)


@dataclass(frozen=True)
class Work:
    """A batch to decode: the images' paths and positions, and how they are augmented.

    What is made of it depends on nothing else: not on who decodes it, and not on what was decoded before.
    """

    images: tuple[tuple[str, int], ...]
    augment: Augment


@dataclass(frozen=True)
class Decoder(torch_data.Dataset[Tensor | PrunecliError]):
    """Makes a batch, uint8 (B, C, H, W); what goes wrong is returned, to be raised.

    Raised here, an error would reach the main process wrapped in the worker's traceback.
    """

    size: int
    resize: int

    def __getitem__(self, work: Work) -> Tensor | PrunecliError:
        try:
            return torch.stack([self._image(path, position, work.augment) for path, position in work.images])
        except PrunecliError as error:
            return error

    def _image(self, path: str, position: int, augment: Augment) -> Tensor:
        from torchvision.transforms.v2.functional import center_crop, resize

        image = _decoded(path)
        if augment.per_image:
            return augment.image(image, torch.tensor([position]), (self.size, self.size))
        cropped: Tensor = center_crop(resize(image, [self.resize], antialias=True), [self.size, self.size])
        return cropped


def _decoded(path: str) -> Tensor:
    """The image, uint8 (3, H, W)."""
    from PIL.Image import DecompressionBombError
    from torchvision.datasets.folder import pil_loader
    from torchvision.transforms.v2.functional import pil_to_tensor

    try:
        pixels: Tensor = pil_to_tensor(pil_loader(path))
    except (OSError, ValueError, SyntaxError, DecompressionBombError) as error:  # SyntaxError: a broken PNG
        raise EnvironmentMissing(f"{path}: cannot be decoded: {error}") from error
    return pixels


@dataclass
class _Feed:
    """What a line of processes is given to decode, in order."""

    work: Iterable[Work] = ()

    def __iter__(self) -> Iterator[Work]:
        return iter(self.work)


@dataclass(eq=False)
class _Line:
    """Processes that work on one iteration at a time; `pinned` where they hand pinned memory out."""

    feed: _Feed
    loader: torch_data.DataLoader[Tensor | PrunecliError]
    pinned: bool
    busy: bool = False


@dataclass(eq=False)
class Readers:
    """Decodes work in `workers` processes, by default as many as there are cores for, in this one where they are 0.

    The processes begin with the first work and stay for what follows; where one iteration begins before another has
    ended, it gets processes of its own. They end with this object, with the process, and where an error is raised.
    """

    decoder: Decoder
    workers: int | None = None
    prefetch: int = 2
    _lines: list[_Line] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        _all.add(self)
        # In a cycle of garbage, as errors make them, the pipes could go first, and the workers would wait for ever.
        weakref.finalize(self, self._lines.clear).atexit = False

    def read(self, work: Iterable[Work], *, pinned: bool) -> Iterator[Tensor]:
        """Each batch in order, in pinned memory where that is asked for.

        Raises:
            PrunecliError: an image cannot be decoded, or made by the augmentation.
        """
        workers = min(max(1, share_of_cores() - 1), MOST_CHOSEN) if self.workers is None else self.workers
        if workers:
            yield from self._in_processes(work, workers, pinned)
        else:
            for batch in map(self.decoder.__getitem__, work):
                yield _raised(batch).pin_memory() if pinned else _raised(batch)

    def _in_processes(self, work: Iterable[Work], workers: int, pinned: bool) -> Iterator[Tensor]:
        line = self._free_line(workers, pinned)
        line.feed.work, line.busy = work, True
        batches: Iterator[Tensor | PrunecliError] = iter(())
        try:
            with _signals_held_back():
                batches = iter(line.loader)
            for batch in batches:
                yield _raised(batch)
        except GeneratorExit:
            # Nobody wants the rest: what follows begins with it thrown away.
            line.busy = False
            raise
        except BaseException:
            # An error's traceback keeps this frame; the workers are to end now, not when that is cleared.
            self._lines.remove(line)
            del batches, line
            raise
        line.busy = False

    def _free_line(self, workers: int, pinned: bool) -> _Line:
        for line in self._lines:
            if line.pinned == pinned and not line.busy:
                return line
        self._lines.append(_line(self.decoder, workers, self.prefetch, pinned=pinned))
        return self._lines[-1]


_all: weakref.WeakSet[Readers] = weakref.WeakSet()
_of_the_parent: list[object] = []
"""In a forked process: lines that it may neither use nor end."""


def _leave_to_the_parent() -> None:
    for readers in _all:
        _of_the_parent.extend(readers._lines)
        readers._lines.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)


def _line(decoder: Decoder, workers: int, prefetch: int, *, pinned: bool) -> _Line:
    feed = _Feed()
    loader = torch_data.DataLoader(
        decoder,
        batch_size=None,
        sampler=feed,
        num_workers=workers,
        persistent_workers=True,
        prefetch_factor=prefetch,
        # In a process that was spawned itself the default would load torch anew in each.
        multiprocessing_context="fork" if sys.platform == "linux" else None,
        worker_init_fn=functools.partial(_begin_worker, _ending(os.getpid())),
        pin_memory=pinned,
        # The loader draws a seed that nothing here uses; torch's own generator is not to notice.
        generator=torch.Generator(),
    )
    return _Line(feed, loader, pinned)


def _raised(batch: Tensor | PrunecliError) -> Tensor:
    if isinstance(batch, PrunecliError):
        raise batch
    return batch


@functools.cache
def _ending(_process: int) -> Event:
    """Set once this process ends; each process has its own."""
    event = multiprocessing.Event()
    # Before multiprocessing ends its workers by SIGTERM and waits for them, in child processes too.
    Finalize(None, event.set, exitpriority=100)
    return event


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Workers that start here can be sent no signal before they have said what to do with it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(ending: Event, _worker: int) -> None:
    """In a worker: leaves signals and output to the main process, and ends with that."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if ending.is_set() else None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    # Whoever reads what the main process writes is not to wait for the workers of one that was killed.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
