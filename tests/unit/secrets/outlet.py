"""Everything that leaves a process, or that a tool for errors would send away from it, gathered for a search.

What is not looked into: the text inside a `Secret` or a `SecretMapping`, which is where secrets are meant to be; the
attributes of objects that are not the package's own (psycopg's connection knows its password, as libpq does); and
variables of the functions of these tests.
"""

import copy
import faulthandler
import functools
import json
import logging
import pickle
import tempfile
import traceback
import types
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from lambda_pool.record import Record
from lambda_pool.secret import Secret, SecretMapping

_MOST_OBJECTS = 20_000
_OPAQUE = (Secret, SecretMapping)
_LEAVES = (str, bytes, bytearray, int, float, complex, bool, type(None), type, types.ModuleType, *_OPAQUE)
_TESTS = str(Path(__file__).parent)


class Outlet:
    """Gathers bytes under labels. `scene` says where in the story we are, and stands in front of each label."""

    def __init__(self) -> None:
        self.gathered: list[tuple[str, bytes]] = []
        self._known: set[bytes] = set()
        self.scene = ""
        self.errors = 0
        self.objects = 0

    def write(self, kind: str, data: object) -> None:
        """Something that left."""
        raw = bytes(data) if isinstance(data, bytes | bytearray) else str(data).encode("utf-8", "surrogateescape")
        if raw in self._known:  # the same again; its first label will do
            return
        self._known.add(raw)
        self.gathered.append((f"{self.scene}: {kind}" if self.scene else kind, raw))

    # --- what libraries say by themselves -----------------------------------------------------------------------------

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within: hears every log record of every library at DEBUG, and every warning."""
        root = logging.getLogger()
        handler = _Records(self)
        level, show = root.level, warnings.showwarning
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        # A logger's own level would keep its DEBUG lines from us.
        own = {name: logger.level for name, logger in _loggers() if logger.level != logging.NOTSET}
        for name in own:
            logging.getLogger(name).setLevel(logging.NOTSET)

        def heard(message: Any, category: Any, filename: Any, lineno: Any, file: Any = None, line: Any = None) -> None:
            self.write("warning", warnings.formatwarning(message, category, filename, lineno, line))
            self.error(message)

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.showwarning = heard
                yield
        finally:
            warnings.showwarning = show
            root.setLevel(level)
            root.removeHandler(handler)
            for name, was in own.items():
                logging.getLogger(name).setLevel(was)

    def threads(self) -> None:
        """What faulthandler would dump now."""
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            self.write("faulthandler", file.read())

    # --- errors -------------------------------------------------------------------------------------------------------

    def error(self, error: BaseException) -> None:
        """An error, as every reporter would send it: all errors behind it, their frames and the variables in these."""
        self.errors += 1
        seen: set[int] = set()
        queue: list[BaseException | None] = [error]
        while queue:
            found = queue.pop()
            if found is None or id(found) in seen:
                continue
            seen.add(id(found))
            # Both, whatever `raise … from None` says: some reporters follow them all the same.
            queue += (found.__cause__, found.__context__)
            self._one_error(found)
        # Without locals, because it shows those of these tests too; `_frames` looks at the others.
        self.write("traceback", "".join(traceback.format_exception(error)))

    def _one_error(self, error: BaseException) -> None:
        name = type(error).__name__
        self.write(f"{name}: text", f"{error} {error!r}")
        self.walk(f"{name}: args", error.args)
        self.walk(f"{name}: attributes", {**vars(error), **_special(error)})
        self.copies(name, error)
        trace = error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if not code.co_filename.startswith(_TESTS):
                self._frame(f"{name}: variables of {code.co_qualname}", trace)
            trace = trace.tb_next

    def _frame(self, label: str, trace: types.TracebackType) -> None:
        # As reporters do it: the printed form of each variable, in full, and what can be reached from it.
        frames = [(trace.tb_frame, trace.tb_lineno)]
        with suppress(AttributeError):  # of an object that was interrupted while it was made
            summary = traceback.StackSummary.extract(iter(frames), capture_locals=True)
            self.write(label, "".join(summary.format()))
        self.walk(label, dict(trace.tb_frame.f_locals))

    # --- objects ------------------------------------------------------------------------------------------------------

    def walk(self, label: str, root: object) -> None:
        """The printed forms of an object and of everything of ours that can be reached from it."""
        for path, found in reachable(root):
            self.objects += 1
            # Python's own types print themselves in one way only.
            for show in (repr,) if type(found).__module__ == "builtins" else (repr, str, format):
                try:
                    text = show(found)
                except Exception as error:
                    text = f"{type(error).__name__}: {error}"
                self.write(f"{label}{path}: {show.__name__}", text)

    def copies(self, label: str, root: object) -> None:
        """An object as it is pickled, copied and made into JSON: without the secret, or not at all."""
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            self._try(f"{label}: pickle", functools.partial(pickle.dumps, root, protocol))
        self._try(f"{label}: copy", lambda: repr(vars(copy.copy(root))))
        self._try(f"{label}: deepcopy", lambda: repr(copy.deepcopy(root)))
        self._try(f"{label}: JSON", lambda: json.dumps(root, default=_plain, skipkeys=True))
        if isinstance(root, Record):
            self._try(f"{label}: asdict", lambda: repr(_asdict(root)))
        # What serialisers other than pickle ask for.
        state: Any = root
        self._try(f"{label}: state", lambda: repr(state.__getstate__()))

    def _try(self, label: str, make: Any) -> None:
        try:
            self.write(label, make())
        except Exception as error:
            self.write(label, f"{error!r}")

    # --- files --------------------------------------------------------------------------------------------------------

    def files(self, folder: Path) -> None:
        """Every file below a folder, its name included."""
        for path in sorted(folder.rglob("*")):
            self.write(f"name of {path.name}", path.name)
            if path.is_file():
                self.write(f"file {path.relative_to(folder)}", path.read_bytes())

    def process(self, pid: int) -> None:
        """What `ps` shows of a process to everybody, and its environment."""
        for what in ("cmdline", "environ"):
            try:
                data = Path(f"/proc/{pid}/{what}").read_bytes()
            except OSError:  # gone, or a zombie
                continue
            self.write(f"{what} of {pid}", data)

    def save(self, file: TextIO) -> None:
        """All of it, a line of JSON each, for another process to search."""
        for label, data in self.gathered:
            file.write(json.dumps([label, data.decode("latin1")]) + "\n")


def load(lines: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """What another process saved."""
    for line in lines:
        label, data = json.loads(line)
        yield label, data.encode("latin1")


class _Records(logging.Handler):
    """Keeps each log record, with everything that is attached to it."""

    def __init__(self, outlet: Outlet) -> None:
        super().__init__(logging.DEBUG)
        self._outlet = outlet

    def emit(self, record: logging.LogRecord) -> None:
        self._outlet.write(f"log of {record.name}", f"{self.format(record)} {record.__dict__!r}")
        if record.exc_info and record.exc_info[1] is not None:
            self._outlet.error(record.exc_info[1])


def _loggers() -> list[tuple[str, logging.Logger]]:
    found = list(logging.root.manager.loggerDict.items())
    return [(name, logger) for name, logger in found if isinstance(logger, logging.Logger)]


def _special(error: BaseException) -> dict[str, object]:
    """What errors of Python's own hold beside their arguments."""
    return {name: getattr(error, name, None) for name in ("object", "doc", "obj", "filename", "__notes__", "response")}


def reachable(root: object) -> Iterator[tuple[str, object]]:
    """An object and what hangs on it: attributes of our own classes, and the contents of Python's containers."""
    seen: set[int] = set()
    keep: list[object] = []  # so that no id is used twice
    queue: list[tuple[str, object]] = [("", root)]
    while queue and len(keep) < _MOST_OBJECTS:
        path, found = queue.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        keep.append(found)
        yield path, found
        if not isinstance(found, _LEAVES):
            queue += ((f"{path}{step}", each) for step, each in _children(found))


def _children(found: object) -> Iterator[tuple[str, object]]:
    if isinstance(found, Mapping):
        for key, value in list(found.items()):
            yield f"[{str(key)[:30]!r}]", value
            yield ".key", key
    elif isinstance(found, list | tuple | set | frozenset):
        yield from ((f"[{number}]", each) for number, each in enumerate(found))
    elif isinstance(found, functools.partial):
        yield from ((".partial", each) for each in (found.func, found.args, found.keywords))
    elif isinstance(found, types.MethodType):
        yield from ((".self", found.__self__), (".function", found.__func__))
    elif isinstance(found, types.FunctionType):
        for cell in found.__closure__ or ():
            try:
                yield ".closure", cell.cell_contents
            except ValueError:  # empty
                continue
        yield ".defaults", (found.__defaults__, found.__kwdefaults__)
    if any(base.__module__.startswith("lambda_pool") for base in type(found).__mro__):
        yield from ((f".{name}", value) for name, value in _attributes(found))


def _attributes(found: object) -> Iterator[tuple[str, object]]:
    yield from list(getattr(found, "__dict__", {}).items())
    for base in type(found).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            own = f"_{base.__name__.lstrip('_')}{name}" if name.startswith("__") else name
            if hasattr(found, own):
                yield own, getattr(found, own)


def _plain(value: object) -> object:
    """What `json.dumps(…, default=…)` is usually given. An observer that gathers all this is left out."""
    if hasattr(value, "_outlet"):
        return "what gathers"
    return vars(value) if hasattr(value, "__dict__") else str(value)


def _asdict(value: object) -> object:
    if isinstance(value, Record):
        return {name: _asdict(getattr(value, name)) for name in value._fields}
    if isinstance(value, Mapping) and not isinstance(value, _OPAQUE):
        return {key: _asdict(item) for key, item in value.items()}
    return value
