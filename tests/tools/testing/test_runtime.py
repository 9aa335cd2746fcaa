"""The genuine runtime, driven with a plain handler that knows nothing of lambda_pool."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lambda_pool.testing.answers import InvocationError, LambdaInitError, LambdaRuntimeError
from lambda_pool.testing.ports import free_ports
from lambda_pool.testing.processes import is_alive, wait_gone
from lambda_pool.testing.runtime import LambdaRuntime, find_emulator

pytestmark = pytest.mark.runtime

HANDLER = """
import os, subprocess, sys, time

print("init of", os.getpid())

def handler(event, context):
    print("event is", event)
    action = (event or {}).get("action")
    if action == "raise":
        raise ValueError("no such order")
    if action == "exit":
        os._exit(3)
    if action == "sleep":
        time.sleep(event["seconds"])
    if action == "child":
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        return subprocess.Popen(command, start_new_session=event["leave"]).pid
    if action == "print":
        print("x" * event["count"])
    if action == "environ":
        return dict(os.environ)
    return {"pid": os.getpid(), "name": context.function_name, "memory": context.memory_limit_in_mb,
            "left": context.get_remaining_time_in_millis(), "cwd": os.getcwd()}
"""


@pytest.fixture
def code_dir(tmp_path: Path) -> Path:
    (tmp_path / "plain.py").write_text(HANDLER)
    return tmp_path


def test_answers_and_stays_warm(code_dir: Path) -> None:
    with LambdaRuntime("plain.handler", code_dir=code_dir, timeout=7, memory=512, function_name="orders") as runtime:
        assert runtime.pid is None
        first = runtime.invoke({"n": 1})
        second = runtime.invoke({"n": 2})
    assert first.error is None
    assert first.payload["pid"] == second.payload["pid"]
    assert first.payload["name"] == "orders"
    assert first.payload["memory"] == "512"
    assert 5000 < second.payload["left"] <= 7000
    assert first.payload["cwd"] == str(code_dir)
    assert first.milliseconds > 0
    assert "init of" in first.log
    assert "event is {'n': 1}" in first.log
    assert "event is {'n': 2}" in second.log
    assert "init of" not in second.log
    assert "event is {'n': 1}" not in second.log


def test_no_event_is_an_empty_one_and_none_is_none(code_dir: Path) -> None:
    with LambdaRuntime("plain.handler", code_dir=code_dir) as runtime:
        assert "event is {}" in runtime.invoke().log
        assert "event is None" in runtime.invoke(None).log


def test_pid_is_the_python_process(code_dir: Path) -> None:
    with LambdaRuntime("plain.handler", code_dir=code_dir) as runtime:
        assert runtime.invoke().payload["pid"] == runtime.pid
        pid = runtime.pid
    assert pid is not None
    assert not is_alive(pid)


def test_handler_exception_is_an_error_not_a_raise(code_dir: Path) -> None:
    with LambdaRuntime("plain.handler", code_dir=code_dir) as runtime:
        answer = runtime.invoke({"action": "raise"})
        assert answer.error is not None
        assert answer.error["errorType"] == "ValueError"
        assert answer.error["errorMessage"] == "no such order"
        assert runtime.invoke().error is None


@pytest.mark.sampled(1 / 3, "4 s")
def test_timeout_resets_the_environment(code_dir: Path) -> None:
    with LambdaRuntime("plain.handler", code_dir=code_dir, timeout=4) as runtime:
        before = runtime.invoke().payload["pid"]
        answer = runtime.invoke({"action": "sleep", "seconds": 30})
        assert answer.error is not None
        assert answer.error["errorType"] == "Sandbox.Timedout"
        assert runtime.invoke().payload["pid"] != before


def test_crash_is_reported_and_recovered(code_dir: Path) -> None:
    with LambdaRuntime("plain.handler", code_dir=code_dir) as runtime:
        before = runtime.invoke().payload["pid"]
        answer = runtime.invoke({"action": "exit"})
        assert answer.error is not None
        assert answer.error["errorType"] == "Runtime.ExitError"
        assert runtime.invoke().payload["pid"] != before


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("raise RuntimeError('the table is missing')", "the table is missing"),
        ("import no_such_module_anywhere", "no_such_module_anywhere"),
        ("import os\nos.write(1, b'last words\\n')\nos._exit(7)", "last words"),
        ("import time\ntime.sleep(60)", "Task timed out"),
    ],
)
def test_failed_init_raises_with_the_end_of_the_log(tmp_path: Path, source: str, expected: str) -> None:
    (tmp_path / "broken.py").write_text(source)
    with LambdaRuntime("broken.handler", code_dir=tmp_path, timeout=1) as runtime:
        with pytest.raises(LambdaInitError, match=expected) as caught:
            runtime.invoke()
    assert "INIT START" in str(caught.value)


def test_environment_is_lambdas_and_clean(code_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://somewhere/else")
    with LambdaRuntime("plain.handler", code_dir=code_dir, env={"MINE": "1", "AWS_REGION": "eu-west-1"}) as runtime:
        environ = runtime.invoke({"action": "environ"}).payload
    assert environ["AWS_EXECUTION_ENV"] == f"AWS_Lambda_python3.{sys.version_info.minor}"
    assert environ["LAMBDA_TASK_ROOT"] == str(code_dir)
    assert environ["PYTHONPATH"].split(os.pathsep)[0] == str(code_dir)
    assert environ["AWS_LAMBDA_INITIALIZATION_TYPE"] == "on-demand"
    assert environ["AWS_LAMBDA_FUNCTION_NAME"] == "function"
    assert environ["AWS_REGION"] == "eu-west-1"
    assert environ["MINE"] == "1"
    assert environ["HOME"] != os.environ["HOME"]
    assert "DATABASE_URL" not in environ


def test_freeze_stops_and_thaw_continues(code_dir: Path) -> None:
    def state(pid: int) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    def wait_for(pid: int, wanted: Callable[[str], bool]) -> None:
        until = time.monotonic() + 5
        while not wanted(state(pid)):
            assert time.monotonic() < until
            time.sleep(0.005)

    with LambdaRuntime("plain.handler", code_dir=code_dir) as runtime:
        child = runtime.invoke({"action": "child", "leave": False}).payload
        pid = runtime.pid
        assert pid is not None
        runtime.freeze()
        wait_for(pid, lambda state: state == "T")
        wait_for(child, lambda state: state == "T")
        with pytest.raises(LambdaRuntimeError, match="thaw"):
            runtime.invoke()
        runtime.thaw()
        wait_for(pid, lambda state: state != "T")
        wait_for(child, lambda state: state != "T")
        assert runtime.invoke().payload["pid"] == pid


def test_freeze_needs_a_process(code_dir: Path) -> None:
    with LambdaRuntime("plain.handler", code_dir=code_dir) as runtime:
        with pytest.raises(LambdaRuntimeError, match="invoke the function first"):
            runtime.freeze()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("leave", [False, True])
def test_nothing_is_left_running(code_dir: Path, frozen: bool, leave: bool) -> None:
    with LambdaRuntime("plain.handler", code_dir=code_dir) as runtime:
        child = runtime.invoke({"action": "child", "leave": leave}).payload
        pid = runtime.pid
        assert pid is not None
        assert is_alive(child)
        if frozen:
            runtime.freeze()
    assert not is_alive(pid)
    assert not is_alive(child)


@pytest.mark.parametrize("frozen", [False, True])
def test_nothing_is_left_running_after_a_test_run_that_a_signal_ended(code_dir: Path, frozen: bool) -> None:
    program = (
        "from lambda_pool.testing import LambdaRuntime\n"
        f"with LambdaRuntime('plain.handler', code_dir={str(code_dir)!r}) as runtime:\n"
        "    runtime.invoke()\n"
        "    print(runtime.pid, flush=True)\n"
        f"    {'runtime.freeze()' if frozen else 'pass'}\n"
        "    print('ready', flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert run.stdout.readline() == b"ready\n"
        run.kill()
    assert not wait_gone([pid], timeout=20.0)


@pytest.mark.parametrize("frozen", [False, True])
def test_shutdown_tells_what_happened(code_dir: Path, frozen: bool) -> None:
    with LambdaRuntime("plain.handler", code_dir=code_dir) as runtime:
        runtime.invoke()
        pid = runtime.pid
        assert pid is not None
        if frozen:
            runtime.freeze()
        end = runtime.shutdown()
        assert not is_alive(pid)
        assert end.exit_code == 0
        assert not end.timed_out
        assert end.milliseconds < 5000
        assert "Shutting down" in end.log
        assert "init of" in runtime.log
        with pytest.raises(LambdaRuntimeError, match="not running"):
            runtime.invoke()


def test_a_lot_of_output_blocks_nothing(code_dir: Path) -> None:
    with LambdaRuntime("plain.handler", code_dir=code_dir) as runtime:
        assert runtime.invoke({"action": "print", "count": 2_000_000}).error is None
        assert runtime.log.count("x") >= 2_000_000


def test_invoke_is_bounded(code_dir: Path) -> None:
    with LambdaRuntime("plain.handler", code_dir=code_dir) as runtime:
        with pytest.raises(TimeoutError, match=r"no answer within 0\.3 s"):
            runtime.invoke({"action": "sleep", "seconds": 20}, timeout=0.3)


def test_an_environment_gets_one_event_at_a_time(code_dir: Path) -> None:
    """The emulator would crash."""
    with LambdaRuntime("plain.handler", code_dir=code_dir) as runtime:
        runtime.invoke()
        pid = runtime.pid
        with pytest.raises(TimeoutError):
            runtime.invoke({"action": "sleep", "seconds": 1}, timeout=0.1)
        with pytest.raises(LambdaRuntimeError, match="still at work"):
            runtime.invoke()
        until = time.monotonic() + 30
        while runtime.log.count("REPORT RequestId") < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert runtime.invoke().error is None
        assert runtime.pid == pid


def test_it_is_started_once(code_dir: Path) -> None:
    with LambdaRuntime("plain.handler", code_dir=code_dir) as runtime:
        with pytest.raises(LambdaRuntimeError, match="the environment is running already"):
            runtime.start()
        assert runtime.invoke().error is None
        runtime.kill()
        runtime.start()
        assert runtime.invoke().error is None


def test_command_prefix(code_dir: Path) -> None:
    prefix = ("env", "PREFIXED=yes")
    with LambdaRuntime("plain.handler", code_dir=code_dir, command_prefix=prefix) as runtime:
        answer = runtime.invoke({"action": "environ"})
        assert answer.payload["PREFIXED"] == "yes"
        assert runtime.pid is not None


def test_a_taken_port_is_tried_again(code_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        handed_out: list[list[int]] = []

        def first_a_taken_one(count: int) -> list[int]:
            ports = free_ports(count)
            if len(handed_out) < 2:
                ports[len(handed_out)] = taken.getsockname()[1]
            handed_out.append(ports)
            return ports

        monkeypatch.setattr("lambda_pool.testing.runtime.free_ports", first_a_taken_one)
        with LambdaRuntime("plain.handler", code_dir=code_dir) as runtime:
            assert runtime.invoke().error is None
        assert len(handed_out) == 3


def test_missing_emulator_says_what_to_do(code_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_LAMBDA_RIE")
    monkeypatch.setenv("PATH", str(code_dir))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(code_dir))
    with pytest.raises(LambdaRuntimeError, match="pip install --no-deps aws-sam-cli"):
        find_emulator()
    monkeypatch.setenv("AWS_LAMBDA_RIE", str(code_dir / "nothing"))
    with pytest.raises(LambdaRuntimeError, match=r"AWS_LAMBDA_RIE=.*nothing.*not an executable file"):
        find_emulator()


def test_emulator_beside_the_interpreter_is_found(code_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = find_emulator()
    scripts = code_dir / "bin"
    scripts.mkdir()
    (scripts / "aws-lambda-rie").symlink_to(genuine)
    monkeypatch.delenv("AWS_LAMBDA_RIE")
    monkeypatch.setenv("PATH", str(code_dir))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(scripts))
    assert find_emulator() == genuine


def test_emulator_of_an_installed_sam_is_found_and_runs(code_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = find_emulator()
    package = code_dir / "site" / "samcli" / "local" / "rapid"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").write_text("raise ImportError('must not be imported')")
    for arch in ("x86_64", "arm64"):
        (package / f"aws-lambda-rie-{arch}").write_bytes(genuine.read_bytes())
    monkeypatch.delenv("AWS_LAMBDA_RIE")
    monkeypatch.setenv("PATH", str(code_dir))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(code_dir))
    monkeypatch.syspath_prepend(code_dir / "site")
    assert find_emulator().parent == package
    with LambdaRuntime("plain.handler", code_dir=code_dir) as runtime:
        assert runtime.invoke().error is None


def test_python_without_awslambdaric_says_what_to_do(code_dir: Path) -> None:
    bare = code_dir / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    with pytest.raises(LambdaRuntimeError, match="-m pip install awslambdaric"):
        LambdaRuntime("plain.handler", code_dir=code_dir, python=bare / "bin" / "python").start()


def test_other_pythons(code_dir: Path, any_python: str) -> None:
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = subprocess.run([any_python, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    with LambdaRuntime("plain.handler", code_dir=code_dir, python=any_python) as runtime:
        answer = runtime.invoke({"action": "environ"})
    assert answer.payload["AWS_EXECUTION_ENV"] == f"AWS_Lambda_python{version}"


def test_factory_fixture_ends_what_it_made(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(plain=HANDLER)
    pytester.makepyfile(
        textwrap.dedent(
            """
            from pathlib import Path
            from lambda_pool.testing.processes import is_alive
            pids = []

            def test_uses(lambda_runtime):
                runtime = lambda_runtime("plain.handler", code_dir=Path(__file__).parent)
                assert runtime.invoke().error is None
                pids.append(runtime.pid)

            def test_is_over():
                assert pids and not is_alive(pids[0])
            """
        )
    )
    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_the_result_of_a_failed_invocation_is_an_error_with_its_log(code_dir: Path) -> None:
    with LambdaRuntime("plain.handler", code_dir=code_dir) as runtime:
        assert runtime.invoke({"n": 1}).result["name"] == "function"
        failed = runtime.invoke({"action": "raise"})
    with pytest.raises(InvocationError, match=r"ValueError: no such order(?s:.*)event is {'action': 'raise'}"):
        _ = failed.result


def test_a_failed_test_shows_the_log_of_its_function(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(plain=HANDLER)
    pytester.makepyfile(
        textwrap.dedent(
            """
            from pathlib import Path

            def test_good(lambda_runtime):
                lambda_runtime("plain.handler", code_dir=Path(__file__).parent).invoke({"n": "what went well"})

            def test_bad(lambda_runtime):
                runtime = lambda_runtime("plain.handler", code_dir=Path(__file__).parent)
                assert runtime.invoke({"n": "what went wrong"}).payload == 1
            """
        )
    )
    done = pytester.runpytest("-p", "no:cacheprovider")
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(["*- log of plain.handler -*", "event is {'n': 'what went wrong'}"])
    assert "event is {'n': 'what went well'}" not in done.stdout.str()


def test_an_error_without_a_text_is_a_failed_test_as_without_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        class NoText(Exception):
            def __str__(self):
                return self.args[0]

        def test_bad():
            raise NoText

        def test_good():
            pass
        """
    )
    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=1, failed=1)


def test_a_failed_invocation_is_shown_at_the_caller_with_its_log_once(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CI", "BUILD_NUMBER"):  # with one of them pytest repeats the whole error in its summary
        monkeypatch.delenv(name, raising=False)
    pytester.makepyfile(
        plain="def handler(event, context):\n    print('event', event['n'], flush=True)\n    return 1 / event['n']\n"
    )
    pytester.makepyfile(
        textwrap.dedent(
            """
            from pathlib import Path

            def test_bad(lambda_runtime):
                runtime = lambda_runtime("plain.handler", code_dir=Path(__file__).parent)
                assert runtime.invoke({"n": 1}).result == 1.0
                assert runtime.invoke({"n": 0}).result == 1.0
            """
        )
    )
    report = pytester.runpytest("-p", "no:cacheprovider").stdout.str()
    assert "ZeroDivisionError: division by zero" in report
    assert report.count("event 0") == report.count("event 1") == 1, report
    assert "def result" not in report  # the failing line is the caller's own
