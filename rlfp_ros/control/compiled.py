"""Compiles the control core with Numba, once per machine: no tick waits for a compiler.

The core is plain Python over arrays and numbers. `compiled` and `inlined` mark functions that other compiled functions
call, and `entry_point` one that Python calls. `prepare` makes all entry points ready; whatever runs ticks calls it
first. Machine code is kept in the user's cache folder, in a folder of its own for every content of the code and every
version of Numba, Python and processor. The place of the code does not matter: all its copies on a machine share one
folder. With the environment variable NUMBA_DISABLE_JIT=1 the same functions run as Python, a hundred times slower, as
their own reference.

Floating-point operations keep their order (no fastmath), so results are the same as Python's.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding  # type: ignore[import-untyped]  # has no stubs
import numba
import numpy as np
from numba.core import cgutils, types
from numba.core.caching import UserProvidedCacheLocator
from numba.core.imputils import impl_ret_borrowed
from numba.extending import lower_builtin, type_callable
from numba.np.arrayobj import make_array, populate_array

Function = TypeVar("Function", bound=Callable[..., Any])

# All modules with compiled functions. Their texts name the cache folder, because a change in one changes its callers.
# A compiled function takes constants from these modules only: Numba writes their values into the machine code.
MODULES = (
    "rlfp_ros.control.chain",
    "rlfp_ros.control.boxes",
    "rlfp_ros.control.capsules",
    "rlfp_ros.control.interpolation",
    "rlfp_ros.control.safety.motion",
    "rlfp_ros.control.safety.limits",
    "rlfp_ros.control.safety.stop",
    "rlfp_ros.control.safety.promise",
    "rlfp_ros.control.safety.checks",
    "rlfp_ros.control.safety.velocity",
    "rlfp_ros.control.safety.steps",
    "rlfp_ros.control.base_controllers.keeping",
)
CACHE = "XDG_CACHE_HOME"  # environment variable: the user's cache folder, instead of ~/.cache
MANIFEST = "manifest.json"  # written last, with the digest of every file of a complete cache
UNUSED_DAYS = 90  # folders of other versions are removed after this time

LOCK = "lock"
SILENT_S = 1.0  # wait for the lock before the user is told

# Settings of Numba that change the machine code; a user can set each by an environment variable NUMBA_<name>.
CODE_SETTINGS = (
    "OPT",
    "BOUNDSCHECK",
    "CPU_NAME",
    "CPU_FEATURES",
    "ENABLE_AVX",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
    "DISABLE_INTEL_SVML",
    "DEBUGINFO_DEFAULT",
)

# Without Numba's runtime (`_nrt`) nothing can allocate memory, and no references to arrays are counted.
OPTIONS = {"error_model": "numpy", "fastmath": False, "_nrt": False, "no_cfunc_wrapper": True}
CONFIG: Any = numba.config  # its variables are made at run time

_entry_points: list[tuple[Any, str]] = []
_one_at_a_time = threading.Lock()
_prepared = False


def compiled(function: Function) -> Function:
    """Compile a function that only compiled functions call."""
    return _jit(function, no_cpython_wrapper=True)  # compiles in half the time


def inlined(function: Function) -> Function:
    """Compile a function into each of its callers: one that takes many arrays and is called in few places.

    A call passes an array as five to nine numbers, so a call with `Limits` and `FilterState` copies three hundred of
    them through memory. That took three quarters of the time of `velocity.find_velocity`.
    """
    return _jit(function, no_cpython_wrapper=True, forceinline=True)


def entry_point(signature: str) -> Callable[[Function], Function]:
    """Compile a function that Python calls, for one Numba signature.

    A call costs about 0.1 us and 0.05 us per array. Arrays must be writable and contiguous: once `prepare` has run, a
    call with any other kind raises TypeError instead of compiling.
    """

    def mark(function: Function) -> Function:
        dispatcher = _jit(function)
        if dispatcher is not function:
            _entry_points.append((dispatcher, signature))
        return dispatcher

    return mark


def _jit(function: Function, **options: bool) -> Function:
    if CONFIG.DISABLE_JIT:
        return function
    njit: Any = numba.njit  # its stubs lack these options
    dispatcher: Function = njit(**OPTIONS, **options)(function)
    return dispatcher


def shaped(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a view of a contiguous array with another shape of the same size.

    Compiled, it costs nothing and does not check the size, so take only slices whose size is right by construction.
    Numba's `reshape` calls a function, which takes 20 ns. As Python it raises ValueError if the size is wrong:
    `promise.memory_size` runs `state_in` as Python for each filter.
    """
    return array.reshape(shape)


# Numba's way to give a Python function a typed, compiled form without a call.
@type_callable(shaped)
def _type_shaped(context: Any) -> Callable[..., Any]:
    def typer(array: Any, shape: Any) -> Any:
        if isinstance(array, types.Array) and array.layout == "C" and isinstance(shape, types.UniTuple):
            return array.copy(ndim=len(shape))
        return None

    return typer


@lower_builtin(shaped, types.Array, types.UniTuple)  # type: ignore[untyped-decorator]
def _build_shaped(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    source = make_array(signature.args[0])(context, builder, arguments[0])
    made = make_array(signature.return_type)(context, builder)
    sizes = cgutils.unpack_tuple(builder, arguments[1])
    strides = [source.itemsize]
    for size in reversed(sizes[1:]):
        strides.insert(0, builder.mul(strides[0], size))
    kept = {"data": source.data, "itemsize": source.itemsize, "meminfo": source.meminfo}
    populate_array(made, shape=sizes, strides=strides, **kept)
    return impl_ret_borrowed(context, builder, signature.return_type, made._getvalue())


def as_python(function: Function) -> Function:
    """Return the Python function behind a compiled one that calls no others."""
    python: Function = getattr(function, "py_func", function)
    return python


def entry_points() -> list[Any]:
    """Return Numba's dispatchers of all entry points of the modules that were imported."""
    return [dispatcher for dispatcher, _ in _entry_points]


def prepare() -> None:
    """Make all entry points ready: load them, or compile them if no process has before. Later calls do nothing."""
    global _prepared
    with _one_at_a_time:
        if _prepared:
            return
        for name in MODULES:
            importlib.import_module(name)
        if _entry_points:
            folder = cache_folder()
            if folder is None or not _prepare_from(folder):
                _say(
                    "compiling the control core, which takes half a minute; nothing is kept, because "
                    f"{folder or 'the home folder'} cannot be used or can be changed by other users; set {CACHE} to a "
                    "folder of your own"
                )
                _compile()
        for dispatcher, _ in _entry_points:
            dispatcher.disable_compile()
        _prepared = True


def prepare_cache() -> None:
    """Compile, if no process has before, for processes that are started next and must be ready in time."""
    folder = cache_folder()
    if not CONFIG.DISABLE_JIT and not (folder is not None and complete(folder) and private(folder)):
        prepare()


def _compile() -> None:
    for dispatcher, signature in _entry_points:
        dispatcher.compile(signature)


def _say(text: str) -> None:
    print(f"rlfp: {text}", file=sys.stderr, flush=True)


# --- the cache ------------------------------------------------------------------------------------------------------


def cache_folder() -> Path | None:
    """Return the folder of this version's machine code, or None if there is no home for it."""
    given = os.environ.get(CACHE)
    try:
        parent = Path(given).expanduser() if given else Path.home() / ".cache"
    except RuntimeError:  # no such user
        return None
    return parent / "rlfp_ros" / f"compiled-{_version()}"


def _version() -> str:
    """Return a digest of everything that the machine code depends on. The place of the sources does not count."""
    digest = hashlib.sha256()
    for name in (__name__, *MODULES):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        text = Path(spec.origin).read_bytes()
        digest.update(f"\n{name} {len(text)}\n".encode() + text)
    features = llvmlite.binding.get_host_cpu_features().flatten()
    for part in (
        numba.__version__,
        llvmlite.__version__,
        np.__version__,
        sys.version,
        llvmlite.binding.get_host_cpu_name(),
        features,
        [(name, getattr(CONFIG, name)) for name in CODE_SETTINGS],
    ):
        digest.update(f"\n{part}".encode())
    return digest.hexdigest()[:16]


def _prepare_from(folder: Path) -> bool:
    """Load the machine code from `folder`, or compile into it. Return False if neither is possible there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not private(folder):
            return False
        with _locked(folder, fcntl.LOCK_SH):  # processes that start at once load side by side
            loaded = complete(folder) and _compile_with_cache(folder)
        if loaded:
            os.utime(folder)
            return True
        with _locked(folder, fcntl.LOCK_EX):  # one compiles and the others wait
            if not complete(folder):
                _empty(folder)
                _say("compiling the control core, once on this machine; this takes about half a minute")
            if not _compile_with_cache(folder):
                _empty(folder)
                return False
            if not complete(folder):
                _write_manifest(folder)
            os.utime(folder)
            _remove_unused(folder.parent)
    except OSError:  # a folder that cannot be written, a full disk
        return False
    return True


def _compile_with_cache(folder: Path) -> bool:
    """Load or compile all entry points. Return False if a file in `folder` is wrong; it can be made again."""
    try:
        with _numba_caches_in(folder):
            _compile()
    except Exception:  # whatever Numba says of such files
        return False
    return True


class CacheLocator(UserProvidedCacheLocator):
    """Tells Numba to name the files of a module after the module. Numba itself names them after the module's path."""

    def __init__(self, function: Callable[..., Any], source: str) -> None:
        super().__init__(function, source)  # type: ignore[no-untyped-call]
        self._folder = str(Path(CONFIG.CACHE_DIR) / function.__module__)

    def get_cache_path(self) -> str:
        """Return the folder for the machine code of the function's module."""
        return self._folder


@contextlib.contextmanager
def _numba_caches_in(folder: Path) -> Iterator[None]:
    """Let the entry points keep their machine code in `folder`; the user's own Numba functions are not affected."""
    kept = CONFIG.CACHE_DIR, CONFIG.CACHE_LOCATOR_CLASSES
    CONFIG.CACHE_DIR = str(folder)
    CONFIG.CACHE_LOCATOR_CLASSES = f"{__name__}.{CacheLocator.__name__}"
    try:
        for dispatcher, _ in _entry_points:
            dispatcher.enable_caching()
    finally:
        CONFIG.CACHE_DIR, CONFIG.CACHE_LOCATOR_CLASSES = kept
    yield


@contextlib.contextmanager
def _locked(folder: Path, kind: int) -> Iterator[None]:
    """Hold the folder's lock, shared or exclusive. The system frees it even if the process is killed."""
    with open(folder / LOCK, "w", encoding="ascii") as file:
        say_at = time.monotonic() + SILENT_S
        while say_at > time.monotonic():
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                break
            time.sleep(0.02)
        else:
            _say("waiting for another process that compiles the control core")
            fcntl.flock(file, kind)
        yield


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != LOCK:
            entry.unlink()


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name not in (LOCK, MANIFEST))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def complete(folder: Path) -> bool:
    """Return whether the folder's files are those that its manifest names, unchanged."""
    try:
        return bool(json.loads((folder / MANIFEST).read_text("utf-8")) == _digests(folder))
    except (OSError, ValueError):
        return False


def private(folder: Path) -> bool:
    """Return whether only this user can change the folder's files: loading machine code runs it."""
    found = folder.stat()
    return found.st_uid == os.getuid() and not found.st_mode & 0o022


def _write_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text(json.dumps(_digests(folder)), "utf-8")


def _remove_unused(folder: Path) -> None:
    for other in folder.glob("compiled-*"):
        with contextlib.suppress(OSError):
            if time.time() - other.stat().st_mtime > UNUSED_DAYS * 86400:
                shutil.rmtree(other)
