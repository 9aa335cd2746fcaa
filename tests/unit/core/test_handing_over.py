"""Each shape of a handler and of a decorator below the pool's: the connection arrives, or a ConfigError says why."""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from unittest.mock import Mock

import pytest

import lambda_pool
from lambda_pool.testing import FakeDriver
from tests.support.context import LambdaContext
from tests.support.core import entries

Decorator = Callable[[Any], Callable[..., Any]]


@pytest.fixture
def pool() -> lambda_pool.Pool:
    return FakeDriver().pool(max_size=2, timeout=0.2)


# --- handlers ---------------------------------------------------------------------------------------------------------


def plain(event: Any, context: Any, conn: Any) -> Any:
    return event, conn.number


def by_name_only(event: Any, context: Any, *, conn: Any) -> Any:
    return event, conn.number


def by_position_only(event: Any, context: Any, conn: Any, /) -> Any:
    return event, conn.number


def event_and_context_by_position_only(event: Any, context: Any, /, conn: Any) -> Any:
    return event, conn.number


def with_default(event: Any, context: Any, conn: Any = None) -> Any:
    return event, conn.number


def by_position_only_with_default(event: Any, context: Any, conn: Any = None, /) -> Any:
    return event, conn.number


def any_keywords(event: Any, context: Any, **keywords: Any) -> Any:
    return event, keywords["conn"].number


def after_an_optional(event: Any, context: Any, extra: int = 1, conn: Any = None) -> Any:
    return event, conn.number


def with_rest(event: Any, context: Any, conn: Any, *rest: Any) -> Any:
    return event, conn.number


def with_more(extra: int, event: Any, context: Any, conn: Any) -> Any:
    return event, conn.number


class Service:
    def handle(self, event: Any, context: Any, conn: Any) -> Any:
        return event, conn.number

    def by_position(self, event: Any, context: Any, conn: Any, /) -> Any:
        return event, conn.number

    @staticmethod
    def static(event: Any, context: Any, conn: Any) -> Any:
        return event, conn.number

    @classmethod
    def of_class(cls, event: Any, context: Any, conn: Any) -> Any:
        return event, conn.number

    def __call__(self, event: Any, context: Any, conn: Any) -> Any:
        return event, conn.number


@functools.singledispatch
def by_event(event: Any, context: Any, conn: Any) -> Any:
    return event, conn.number


HANDLERS: dict[str, Any] = {
    "plain": plain,
    "lambda": lambda event, context, conn: (event, conn.number),
    "by name only": by_name_only,
    "by position only": by_position_only,
    "event and context by position only": event_and_context_by_position_only,
    "with a default": with_default,
    "by position only, with a default": by_position_only_with_default,
    "any keywords": any_keywords,
    "after an optional": after_an_optional,
    "with *rest": with_rest,
    "bound method": Service().handle,
    "bound method by position": Service().by_position,
    "static method": Service.static,
    "class method": Service.of_class,
    "callable object": Service(),
    "partial": functools.partial(with_more, 7),
    "partial by name": functools.partial(after_an_optional, extra=7),
    "partial of a method": functools.partial(Service().handle),
    "single dispatch": by_event,
}


@pytest.mark.parametrize("name", HANDLERS)
def test_a_handler_gets_its_connection(pool: lambda_pool.Pool, name: str) -> None:
    handler: Callable[..., Any] = pool.handler(HANDLERS[name])
    assert handler(1, LambdaContext()) == (1, 0)
    assert handler(2, None) == (2, 0)
    assert pool.stats().idle == 1


def test_in_the_body_of_a_class(pool: lambda_pool.Pool) -> None:
    class Handlers:
        @pool.handler
        def method(self, event: Any, context: Any, conn: Any) -> Any:
            return event, conn.number

        @pool.handler
        def by_position(self, event: Any, context: Any, conn: Any, /) -> Any:
            return event, conn.number

        @staticmethod
        @pool.handler
        def static(event: Any, context: Any, conn: Any) -> Any:
            return event, conn.number

        @pool.handler
        @staticmethod
        def static_inside(event: Any, context: Any, conn: Any) -> Any:
            return event, conn.number

        @classmethod
        @pool.handler
        def of_class(cls, event: Any, context: Any, conn: Any) -> Any:
            return event, conn.number

        @pool.handler
        def of_none(this, event: Any, context: Any) -> Any:
            return event, None

    here = Handlers()
    static = (here.static, here.static_inside, Handlers.static, Handlers.static_inside)
    for handler in (here.method, here.by_position, *static, here.of_class, Handlers.of_class):
        assert handler(1, LambdaContext()) == (1, 0)
    assert here.of_none(1, LambdaContext()) == (1, None)  # type: ignore[call-arg]


# --- decorators below the pool's --------------------------------------------------------------------------------------


def wraps_and_passes_all(fn: Any) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def wraps_and_passes_two(fn: Any) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(event: Any, context: Any) -> Any:
        return fn(event, context)

    return wrapper


def hides_and_passes_all(fn: Any) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def hides_and_passes_positions(fn: Any) -> Callable[..., Any]:
    def wrapper(*args: Any) -> Any:
        return fn(*args)

    return wrapper


def hides_and_drops_keywords(fn: Any) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args)

    return wrapper


def hides_and_passes_two(fn: Any) -> Callable[..., Any]:
    def wrapper(event: Any, context: Any) -> Any:
        return fn(event, context)

    return wrapper


def keeps_more_than_the_handler(fn: Any) -> Callable[..., Any]:
    def before() -> None: ...

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        before()
        return fn(*args)

    return wrapper


def in_a_thread(fn: Any) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(event: Any, context: Any) -> Any:
        with ThreadPoolExecutor(1) as threads:
            return threads.submit(fn, event, context).result(10)

    return wrapper


def in_a_thread_hidden(fn: Any) -> Callable[..., Any]:
    def wrapper(event: Any, context: Any) -> Any:
        with ThreadPoolExecutor(1) as threads:
            return threads.submit(lambda: fn(event, context)).result(10)

    return wrapper


def on_an_event_loop(fn: Any) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(event: Any, context: Any) -> Any:
        return asyncio.run(asyncio.to_thread(fn, event, context))

    return wrapper


class Wrapper:
    def __init__(self, fn: Any) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn

    def __call__(self, event: Any, context: Any) -> Any:
        return self.fn(event, context)


class HidingWrapper:
    def __init__(self, fn: Any) -> None:
        self.fn = fn

    def __call__(self, event: Any, context: Any) -> Any:
        return self.fn(event, context)


class HidingAllWrapper:
    def __init__(self, fn: Any) -> None:
        self.fn = fn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args)


class Middleware:
    def around(self, fn: Any) -> Callable[..., Any]:
        @functools.wraps(fn)
        def wrapper(event: Any, context: Any) -> Any:
            return self.call(fn, event, context)

        return wrapper

    def call(self, fn: Any, event: Any, context: Any) -> Any:
        return fn(event, context)


def by_a_helper(fn: Any) -> Callable[..., Any]:
    def call(event: Any, context: Any) -> Any:
        return fn(event, context)

    @functools.wraps(fn)
    def wrapper(event: Any, context: Any) -> Any:
        return call(event, context)

    return wrapper


DECORATORS: dict[str, Decorator] = {
    "wraps, passes all": wraps_and_passes_all,
    "wraps, passes two": wraps_and_passes_two,
    "hides, passes all": hides_and_passes_all,
    "hides, passes positions": hides_and_passes_positions,
    "hides, drops keywords": hides_and_drops_keywords,
    "hides, passes two": hides_and_passes_two,
    "hides, keeps more": keeps_more_than_the_handler,
    "in a thread": in_a_thread,
    "in a thread, hidden": in_a_thread_hidden,
    "on an event loop": on_an_event_loop,
    "object": Wrapper,
    "object, hides": HidingWrapper,
    "object, hides all": HidingAllWrapper,
    "middleware": Middleware().around,
    "by a helper": by_a_helper,
    "partial": functools.partial,
    "cache": functools.lru_cache,
    "two": lambda fn: wraps_and_passes_two(hides_and_passes_all(fn)),
    "two, hidden": lambda fn: hides_and_passes_two(hides_and_passes_positions(fn)),
}
SHAPES = ["plain", "by name only", "by position only", "with a default", "bound method", "partial", "callable object"]
NOT_TOGETHER = {
    # Nothing in between passes a third argument on by position.
    ("cache", "by position only"),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", DECORATORS)
def test_a_decorator_below_keeps_no_connection_back(pool: lambda_pool.Pool, name: str, shape: str) -> None:
    if (name, shape) in NOT_TOGETHER:
        with pytest.raises(lambda_pool.ConfigError, match="could not be handed to by_position_only"):
            pool.handler(DECORATORS[name](HANDLERS[shape]))
        return
    handler = pool.handler(DECORATORS[name](HANDLERS[shape]))
    assert handler(1, LambdaContext()) == (1, 0)
    assert handler(2, LambdaContext()) == (2, 0)
    assert pool.stats().idle == 1


@pytest.mark.parametrize("name", DECORATORS)
def test_a_handler_without_a_connection_opens_none(name: str) -> None:
    driver = FakeDriver()

    def handler(event: Any, context: Any) -> Any:
        return event

    assert driver.pool().handler(DECORATORS[name](handler))(1, LambdaContext()) == 1
    assert driver.links == []


def test_the_same_wrapped_handler_for_two_pools(pool: lambda_pool.Pool) -> None:
    other = FakeDriver(answers={}).pool("postgresql://fake@fake.example/other")

    def handler(event: Any, context: Any, conn: Any) -> Any:
        return conn

    for decorator in (wraps_and_passes_two, hides_and_passes_all, Wrapper):
        wrapped = decorator(handler)
        first, second = pool.handler(wrapped), other.handler(wrapped)
        assert first({}, None) is entries(pool)[0].link.driver_connection
        assert second({}, None) is entries(other)[0].link.driver_connection
        assert first({}, None) is entries(pool)[0].link.driver_connection


def test_a_handler_that_calls_itself(pool: lambda_pool.Pool) -> None:
    @pool.handler
    @wraps_and_passes_two
    def handler(event: int, context: Any, conn: Any) -> Any:
        return [conn.number, *(handler(event - 1, context) if event else []), conn.number]

    assert handler(1, LambdaContext()) == [0, 1, 1, 0]


def test_a_connection_of_the_callers_own_is_used(pool: lambda_pool.Pool) -> None:
    for shape in ("plain", "by position only", "bound method", "partial"):
        handler: Callable[..., Any] = pool.handler(HANDLERS[shape])
        assert handler(1, LambdaContext(), Mock(number="mine")) == (1, "mine")
    assert pool.handler(plain)(1, None, conn=Mock(number="mine")) == (1, "mine")  # type: ignore[call-arg]
    assert pool.stats().size == 0


def test_a_mock_is_a_handler(pool: lambda_pool.Pool) -> None:
    assert pool.handler(Mock(return_value=5))({}, LambdaContext()) == 5


# --- refused when it is decorated -------------------------------------------------------------------------------------


class Refused(NamedTuple):
    handler: Any
    match: str
    inject: str = "conn"


async def coroutine(event: Any, context: Any, conn: Any) -> None: ...


async def asynchronous(event: Any, context: Any, conn: Any) -> AsyncIterator[Any]:
    yield conn


def generator(event: Any, context: Any, conn: Any) -> Iterator[Any]:
    yield conn


class AsyncCallable:
    async def __call__(self, event: Any, context: Any, conn: Any) -> None: ...


class OnlyPositions:
    def __call__(self, *args: Any) -> Any: ...


class Handler:
    def __init__(self, event: Any, context: Any, conn: Any) -> None: ...


def of_another_name(event: Any, context: Any, db: Any) -> None: ...


def of_another_name_by_name(event: Any, context: Any, *, db: Any) -> None: ...


def of_another_name_and_keywords(event: Any, context: Any, db: Any, **kwargs: Any) -> None: ...


def late_by_position_only(event: Any, context: Any, extra: Any, conn: Any, /) -> None: ...


def only_positions(*args: Any) -> None: ...


class OfAnotherName:
    def handle(self, event: Any, context: Any, db: Any) -> None: ...

    def early(self, event: Any, conn: Any) -> None: ...

    def __call__(self, event: Any, context: Any, db: Any) -> None: ...


class WrapsItself:
    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, event: Any, context: Any) -> None: ...


class SlottedWrapper:
    __slots__ = ("__wrapped__", "kept")

    def __init__(self, fn: Any) -> None:
        self.__wrapped__, self.kept = fn, [fn]

    def __call__(self, event: Any, context: Any) -> Any:
        return self.kept[0](event, context)


def keeps_it_in_a_list(fn: Any) -> Callable[..., Any]:
    kept = [fn]

    @functools.wraps(fn)
    def wrapper(event: Any, context: Any) -> Any:
        return kept[0](event, context)

    return wrapper


REFUSED = {
    "async def": Refused(coroutine, "coroutine is 'async def'"),
    "async generator": Refused(asynchronous, "asynchronous holds a yield"),
    "async callable": Refused(AsyncCallable(), "__call__ is 'async def'"),
    "async def below a decorator": Refused(wraps_and_passes_two(coroutine), "coroutine is 'async def'"),
    "async def, hidden": Refused(hides_and_passes_all(coroutine), "coroutine is 'async def'"),
    "generator": Refused(generator, "generator holds a yield"),
    "generator below a decorator": Refused(Wrapper(generator), "generator holds a yield"),
    "class": Refused(Handler, "not the class Handler"),
    "class method object": Refused(Service.__dict__["of_class"], "not classmethod: put @classmethod above"),
    "written in C": Refused(print, "print is written in C"),
    "another name": Refused(
        of_another_name, r"takes 'db', for which nobody passes a value.* inject='db' in the decorator's brackets"
    ),
    "another name, by name": Refused(of_another_name_by_name, "takes 'db', for which nobody passes a value"),
    "another name, and keywords": Refused(of_another_name_and_keywords, "takes 'db', for which nobody passes a value"),
    "another name, method": Refused(OfAnotherName().handle, "takes 'db', for which nobody passes a value"),
    "another name, in a class": Refused(OfAnotherName.handle, "takes 'db', for which nobody passes a value"),
    "another name, object": Refused(OfAnotherName(), "takes 'db', for which nobody passes a value"),
    "another name, partial": Refused(
        functools.partial(with_more, 7), "takes 'conn', for which nobody passes a value", "db"
    ),
    "too early": Refused(lambda event, conn: None, "takes 'conn' too early"),
    "too early, method": Refused(OfAnotherName().early, "takes 'conn' too early"),
    "too early, partial": Refused(functools.partial(plain, 7), "takes 'conn' too early"),
    "the event": Refused(plain, "takes 'event' too early", "event"),
    "by position, late": Refused(late_by_position_only, "by position only, and not right after"),
    "only positions": Refused(only_positions, r"takes \* alone"),
    "only positions, object": Refused(OnlyPositions(), r"takes \* alone"),
    "wraps itself": Refused(WrapsItself(), "wraps itself for ever"),
    "kept in a list": Refused(keeps_it_in_a_list(plain), "could not be handed to plain"),
    "kept in a slot": Refused(SlottedWrapper(plain), "could not be handed to plain"),
    "no callable": Refused(5, "must be a function or another callable, not int"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_when_it_is_decorated(pool: lambda_pool.Pool, name: str) -> None:
    refused = REFUSED[name]
    with pytest.raises(lambda_pool.ConfigError, match=refused.match):
        pool.handler(inject=refused.inject)(refused.handler)


# --- refused when it is called ----------------------------------------------------------------------------------------

REGISTRY: dict[str, Any] = {}


def registers(fn: Any) -> Callable[..., Any]:
    """Keeps the handler in a place where nobody finds it."""
    REGISTRY["handler"] = fn

    def wrapper(event: Any, context: Any, **kwargs: Any) -> Any:
        return REGISTRY["handler"](event, context)

    return wrapper


def registers_and_passes_all(fn: Any) -> Callable[..., Any]:
    REGISTRY["handler"] = fn

    def wrapper(event: Any, context: Any, **kwargs: Any) -> Any:
        return REGISTRY["handler"](event, context, **kwargs)

    return wrapper


def drops_from_a_list(fn: Any) -> Callable[..., Any]:
    kept = [fn]

    @functools.wraps(fn)
    def wrapper(event: Any, context: Any, **kwargs: Any) -> Any:
        return kept[0](event, context)

    return wrapper


@pytest.mark.parametrize("decorator", [registers, drops_from_a_list])
def test_a_connection_that_did_not_arrive_is_an_error_of_its_own(
    decorator: Decorator,
) -> None:
    driver = FakeDriver()
    handler = driver.pool().handler(decorator(plain))
    with pytest.raises(lambda_pool.ConfigError, match="'conn' on") as caught:
        handler({}, LambdaContext())
    assert isinstance(caught.value.__cause__, TypeError)
    assert "commit" not in driver.links[0].history


def test_a_connection_that_nobody_asked_for_is_an_error_of_its_own(pool: lambda_pool.Pool) -> None:
    handler = pool.handler(registers_and_passes_all(lambda event, context: None))
    with pytest.raises(lambda_pool.ConfigError, match="could not be handed to wrapper"):
        handler({}, LambdaContext())


def test_another_parameter_that_nobody_fills(pool: lambda_pool.Pool) -> None:
    for decorator in (wraps_and_passes_all, hides_and_passes_all):
        handler = pool.handler(decorator(of_another_name))
        with pytest.raises(lambda_pool.ConfigError, match=r"takes 'db', for which nobody passes a value.*inject='db'"):
            handler({}, LambdaContext())


def test_another_decorator_may_fill_a_parameter(pool: lambda_pool.Pool) -> None:
    def clock(fn: Any) -> Callable[..., Any]:
        @functools.wraps(fn)
        def wrapper(event: Any, context: Any, **kwargs: Any) -> Any:
            return fn(event, context, db=7, **kwargs)

        return wrapper

    @pool.handler
    @clock
    def below(event: Any, context: Any, db: int) -> Any:
        return db

    @clock
    @pool.handler
    def above(event: Any, context: Any, db: int, conn: Any) -> Any:
        return db, conn.number

    assert below({}, LambdaContext()) == 7
    assert above({}, LambdaContext()) == (7, 0)


def test_a_type_error_of_the_handlers_own_stays_what_it_is(pool: lambda_pool.Pool) -> None:
    def save(event: Any, conn: Any) -> None: ...

    def deeper(event: Any) -> Any:
        return save(event)  # type: ignore[call-arg]

    @pool.handler
    def forgets(event: Any, context: Any) -> Any:
        return deeper(event)

    @pool.handler
    @hides_and_passes_all
    def forgets_below(event: Any, context: Any, conn: Any) -> Any:
        return save(event, conn, extra=1)  # type: ignore[call-arg]

    @pool.handler
    def has_it(event: Any, context: Any, conn: Any) -> Any:
        return save(conn=conn)  # type: ignore[call-arg]

    for handler in (forgets, forgets_below, has_it):
        with pytest.raises(TypeError, match="save"):
            handler({}, LambdaContext())


def test_without_a_connection_the_handlers_helper_needs_one(pool: lambda_pool.Pool) -> None:
    """A wrapper that hides its handler completely looks like a handler without the connection: the error names both."""

    def hides(event: Any, context: Any) -> Any:
        return REGISTRY["handler"](event, context)

    REGISTRY["handler"] = plain
    with pytest.raises(lambda_pool.ConfigError, match="could not be handed to plain"):
        pool.handler(hides)({}, LambdaContext())


def test_event_and_context_that_are_missing_are_pythons_error(pool: lambda_pool.Pool) -> None:
    with pytest.raises(TypeError, match="context"):
        pool.handler(plain)({})  # type: ignore[call-arg]


@pytest.mark.parametrize("take", [True, False])
def test_a_body_that_has_yet_to_run_saves_nothing(take: bool) -> None:
    driver = FakeDriver()
    pool = driver.pool()

    async def later() -> None: ...

    async def rows() -> AsyncIterator[int]:
        yield 1

    for make, name in ((later, "coroutine"), (rows, "async_generator"), (lambda: (n for n in [1]), "generator")):
        with_one = lambda event, context, conn, make=make: conn.execute("insert") and make()  # noqa: E731
        handler = pool.handler(with_one if take else lambda event, context, make=make: make())
        with pytest.raises(lambda_pool.ConfigError, match=f"returned a {name}, whose body would run after"):
            handler({}, LambdaContext())
    assert [step for link in driver.links for step in link.history].count("commit") == 0


def test_after_the_invocation_there_is_no_connection_for_a_thread(pool: lambda_pool.Pool) -> None:
    """Even without the pool's decorator: a function that another decorator kept gets no connection that nobody owns."""
    kept: list[Callable[[], Any]] = []

    def keeps(fn: Any) -> Callable[..., Any]:
        @functools.wraps(fn)
        def wrapper(event: Any, context: Any) -> Any:
            kept.append(lambda: fn(event, context))
            return fn(event, context)

        return wrapper

    handler = pool.handler(keeps(plain))
    assert handler(1, LambdaContext()) == (1, 0)
    with pytest.raises(lambda_pool.ConfigError, match="after its invocation had ended"):
        kept[0]()


def test_a_thread_among_several_invocations_is_not_given_anothers_connection() -> None:
    pool = FakeDriver().pool(max_size=2)
    both = threading.Barrier(2, timeout=10)
    errors: list[Any] = []

    def in_thread_when_both_run(fn: Any) -> Callable[..., Any]:
        @functools.wraps(fn)
        def wrapper(event: Any, context: Any) -> Any:
            both.wait()
            try:
                with ThreadPoolExecutor(1) as threads:
                    return threads.submit(fn, event, context).result(10)
            finally:
                both.wait()

        return wrapper

    handler = pool.handler(in_thread_when_both_run(plain))

    def invoke() -> None:
        try:
            handler(1, LambdaContext())
        except lambda_pool.ConfigError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=invoke) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert ["while several invocations run" in error for error in errors] == [True, True]


# --- decorated twice --------------------------------------------------------------------------------------------------


def passes_on(handler: Any) -> Any:
    @functools.wraps(handler)
    def wrapper(event: Any, context: Any, **named: Any) -> Any:
        return handler(event, context, **named)

    return wrapper


@pytest.mark.parametrize("between", [None, passes_on, functools.partial])
@pytest.mark.parametrize("takes", [plain, lambda event, context, *, conn: conn, lambda event, context, conn, /: conn])
def test_decorated_twice_by_the_same_pool(pool: lambda_pool.Pool, takes: Any, between: Any) -> None:
    """It would take two connections, and give the handler one of them."""
    once = pool.handler(takes)
    with pytest.raises(lambda_pool.ConfigError, match=r"is decorated twice by the same pool.*remove one"):
        pool.handler(between(once) if between else once)
    with pytest.raises(lambda_pool.ConfigError, match="is decorated twice by the same pool"):
        pool.handler(inject="conn")(between(once) if between else once)


def test_by_two_pools_or_for_two_parameters_it_is_decorated_once_each() -> None:
    pool, other = (FakeDriver().pool(max_size=2) for _ in range(2))

    def handler(event: Any, context: Any, conn: Any, db: Any) -> bool:
        return conn is not db and None not in (conn, db)

    assert other.handler(inject="db")(pool.handler(handler))({}, LambdaContext())
    assert pool.handler(inject="db")(pool.handler(handler))({}, LambdaContext())


@pytest.mark.parametrize("between", [None, passes_on, functools.partial])
def test_two_pools_for_one_parameter(pool: lambda_pool.Pool, between: Any) -> None:
    """Only one connection would arrive, and the handler's parameter could mean the other database."""
    once = FakeDriver().pool().handler(plain)
    with pytest.raises(lambda_pool.ConfigError, match=r"is decorated by two pools.*two parameters, and inject="):
        pool.handler(between(once) if between else once)


def test_a_function_that_calls_another_pools_handler_leaves_it_its_connection(pool: lambda_pool.Pool) -> None:
    """It looks like a decorator without functools.wraps, and the inner handler must not write to its database."""
    other = FakeDriver().pool()
    inner = other.handler(passes_on(plain))
    handler = pool.handler(lambda event, context: inner(event or {}, context))
    assert handler({}, LambdaContext()) is not None
    assert (pool.stats().opened, other.stats().opened) == (0, 1)


def test_a_function_that_chooses_among_decorated_ones_takes_nothing(pool: lambda_pool.Pool) -> None:
    """It looks like a decorator without functools.wraps. In both cases one connection is taken."""
    route = pool.handler(plain)
    handler = pool.handler(lambda event, context: route(event or {}, context))
    assert handler({}, LambdaContext()) is not None
    assert pool.stats().opened == 1


def test_what_takes_no_connection_may_be_decorated_twice(pool: lambda_pool.Pool) -> None:
    assert pool.handler(pool.handler(lambda event, context: "done"))({}, LambdaContext()) == "done"
