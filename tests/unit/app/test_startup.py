"""What the app is started with: settled in a moment, or refused in one sentence."""

from __future__ import annotations

import os
import runpy
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from app import startup
from app.startup import Settings, StartError, settle
from tests.serving import EXAMPLE, ROOT, free_port, serving, tiny_models
from tests.web_proxies import WebProxy

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
OWN = [
    f"MASK2KAN_{name}" for name in ("PUBLIC", "HOSTS", "PROXIES", "LOG", "METRICS_PORT", "MODELS")
]
SOCKS = "socks5://me:secret@127.0.0.1:9"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the variables, but for a folder of uploads; all is as before afterwards."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in list(os.environ):
        own = name.startswith(("GRADIO_", "SPACE_", "SPACES_")) or name in OWN
        if own or name.upper() in (*PROXIES, "SSL_CERT_FILE"):
            del os.environ[name]
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path / "uploads")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def refusal(*arguments: str) -> str:
    with pytest.raises(StartError) as refused:
        settle(arguments)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_an_argument_wins_over_the_environment_and_is_written_there(tmp_path: Path) -> None:
    port = free_port()
    os.environ |= {"GRADIO_SERVER_NAME": "8.8.8.8", "GRADIO_SERVER_PORT": "abc"}
    settings = settle(["--host", "localhost", "--port", str(port)])
    assert settings == Settings("localhost", port)
    assert os.environ["GRADIO_SERVER_NAME"] == "localhost"
    assert os.environ["GRADIO_SERVER_PORT"] == str(port)
    assert (tmp_path / "uploads").is_dir()


@pytest.mark.parametrize("port", ["99999", "0", "-1", "abc", "7860.5"])
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_what_is_no_port(port: str, by: str) -> None:
    os.environ["GRADIO_SERVER_PORT"] = "1" if by == "argument" else port
    said = refusal(*([f"--port={port}"] if by == "argument" else []))
    assert said.startswith(f"The port is '{port}'")
    assert "GRADIO_SERVER_PORT" in said


def test_a_port_in_use(taken: int) -> None:
    said = refusal("--port", str(taken))
    assert said.startswith(f"Port {taken} on 127.0.0.1 is in use")


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid", "x" * 70])
def test_a_host_that_is_not_this_machine(host: str) -> None:
    said = refusal("--host", host, "--port", str(free_port()))
    assert said.startswith(f"Can't listen on '{host}' (")
    assert "GRADIO_SERVER_NAME" in said


@pytest.mark.parametrize("path", ["/dev/null/uploads", __file__])
def test_a_folder_that_cannot_keep_uploads(path: str) -> None:
    os.environ["GRADIO_TEMP_DIR"] = path
    said = refusal("--port", str(free_port()))
    assert said.startswith(f"Can't keep uploads in '{path}' (")
    assert "GRADIO_TEMP_DIR" in said


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="temporary folders are each user's own here")
def test_each_user_has_their_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup.tempfile, "gettempdir", lambda: str(tmp_path))
    port, own = str(free_port()), os.getuid()
    del os.environ["GRADIO_TEMP_DIR"]
    settle(["--port", port])
    folder = Path(os.environ.pop("GRADIO_TEMP_DIR"))
    assert folder == (tmp_path / f"mask2kan_uploads_{own}").resolve()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    settle(["--port", port])  # again, now that it is there
    assert os.environ.pop("GRADIO_TEMP_DIR") == str(folder)

    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    folder.rename(tmp_path / f"mask2kan_uploads_{own + 1}")  # somebody was faster
    said = refusal("--port", port)
    assert "belongs to somebody else" in said
    assert "GRADIO_TEMP_DIR" in said


def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    port = ("--port", str(free_port()))
    os.environ["SSL_CERT_FILE"] = str(tmp_path / "none.pem")
    assert "No such file" in refusal(*port)
    os.environ["SSL_CERT_FILE"] = __file__
    assert refusal(*port).startswith(f"SSL_CERT_FILE is '{__file__}'")
    import certifi

    os.environ["SSL_CERT_FILE"] = certifi.where()
    settle(port)


def test_a_path_under_a_proxy() -> None:
    port = ("--port", str(free_port()))
    os.environ["GRADIO_ROOT_PATH"] = "mask2kan"
    assert "such as /mask2kan" in refusal(*port)
    for given, kept in (("/mask2kan/", "/mask2kan"), ("https://a.org/x", "https://a.org/x")):
        os.environ["GRADIO_ROOT_PATH"] = given
        assert settle(port).root_path == kept


def test_what_is_for_the_world_is_switched_on() -> None:
    port = ("--port", str(free_port()))
    usual = settle(port)
    assert (usual.public, usual.names, usual.log, usual.metrics_port) == (False, (), "plain", None)
    assert usual.proxies == ("127.0.0.1", "::1")
    os.environ |= {
        "MASK2KAN_PUBLIC": "1",
        "MASK2KAN_HOSTS": "demo.example.org, *.example.com",
        "MASK2KAN_PROXIES": "10.0.0.0/8",
        "MASK2KAN_LOG": "json",
        "GRADIO_ROOT_PATH": "https://pages.example.net/mask2kan",
    }
    public = settle(port)
    assert (public.public, public.log, public.proxies) == (True, "json", ("10.0.0.0/8",))
    assert public.names == ("demo.example.org", "*.example.com", "pages.example.net")


def test_a_space_is_public_and_trusts_its_proxies() -> None:
    os.environ |= {"SPACE_ID": "someone/mask2kan", "SPACE_HOST": "someone-mask2kan.hf.space"}
    space = settle(["--port", str(free_port())])
    assert (space.public, space.on_spaces, space.proxies) == (True, True, ("*",))
    assert space.names == ("someone-mask2kan.hf.space",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MASK2KAN_HOSTS", "demo.example.org:80"),
        ("MASK2KAN_HOSTS", "*"),
        ("MASK2KAN_LOG", "xml"),
        ("MASK2KAN_METRICS_PORT", "99999"),
    ],
)
def test_settings_that_mean_nothing(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setattr(startup.importlib.util, "find_spec", lambda package: package)
    os.environ[name] = value
    said = refusal("--port", str(free_port()))
    assert name in said
    assert repr(value) in said


def test_metrics_need_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup.importlib.util, "find_spec", lambda package: None)
    os.environ["MASK2KAN_METRICS_PORT"] = "9000"
    assert "pip install" in refusal("--port", str(free_port()))


def test_without_a_proxy_none_is_spoken_of() -> None:
    before = set(os.environ)
    assert settle(["--port", str(free_port())]).notes == ()
    assert not {"NO_PROXY", "no_proxy", "HF_HUB_OFFLINE"} & (os.environ.keys() - before)


@pytest.mark.parametrize(
    ("proxies", "left", "unusable", "offline"),
    [
        ({"HTTP_PROXY": "http://127.0.0.1:9"}, {"http_proxy"}, "", False),
        ({"ALL_PROXY": SOCKS}, set(), "ALL_PROXY", True),
        ({"all_proxy": SOCKS, "HTTPS_PROXY": "127.0.0.1:9"}, {"https_proxy"}, "ALL_PROXY", False),
        ({"https_proxy": SOCKS, "ALL_PROXY": "http://a:9"}, {"all_proxy"}, "HTTPS_PROXY", True),
        ({"ALL_PROXY": "gopher://127.0.0.1:9"}, set(), "ALL_PROXY", True),
        ({"HTTPS_PROXY": "http://127.0.0.1:x"}, set(), "HTTPS_PROXY", True),
    ],
)
def test_clients_can_be_made_and_ask_this_machine_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
    proxies: dict[str, str],
    left: set[str],
    unusable: str,
    offline: bool,
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    os.environ.pop("HF_HUB_OFFLINE", None)
    os.environ |= {**proxies, "NO_PROXY": "example.org"}
    notes = settle(["--port", str(free_port())]).notes
    assert {name for name in os.environ if name.endswith("_proxy")} - {"no_proxy"} == left
    assert [note.split()[0] for note in notes] == unusable.split()
    assert not any("secret" in note for note in notes)
    # What the proxy should have carried does not go without it.
    assert (os.environ.get("HF_HUB_OFFLINE") == "1") == offline
    assert [note for note in notes if "The Hub counts as unreachable" in note] == (
        list(notes) if offline else []
    )
    with httpx.Client() as client:

        def goes_direct(url: str) -> bool:
            return client._transport_for_url(httpx.URL(url)) is client._transport

        assert all(map(goes_direct, ("http://127.0.0.1", "http://localhost", "http://[::1]")))
        if left:
            assert goes_direct("http://example.org")
        assert goes_direct("https://elsewhere.org") == (not left & {"https_proxy", "all_proxy"})


def test_the_command_says_one_line_and_fails(taken: int) -> None:
    started = subprocess.run(
        [sys.executable, "app.py", "--port", str(taken)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 2
    assert started.stderr.splitlines() == [refusal("--port", str(taken))]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("When localhost is not accessible, …"), "does not answer from there"),
        (OSError("Cannot find empty port"), "Can't listen on 127.0.0.1:"),
        (ValueError("a defect"), None),
    ],
)
def test_under_zerogpu_a_defect_is_not_taken_for_a_slow_machine_or_a_port(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    said: str | None,
) -> None:
    class Failing:
        def launch(self, **_: object) -> None:
            raise error

    os.environ["SPACES_ZERO_GPU"] = "true"
    monkeypatch.setattr("app.page.build_demo", lambda **_: Failing())
    monkeypatch.setattr("mask2kan.runtime.memory.keep_freed_memory", lambda: True)
    main = runpy.run_path(str(ROOT / "app.py"))["main"]
    arguments = ["--port", str(free_port())]
    if said is None:
        with pytest.raises(ValueError, match="a defect"):
            main(arguments)
        return
    assert main(arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_port_that_was_taken_since_it_was_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    with socket.socket() as other:

        def build_demo(**_: object) -> None:
            other.bind(("127.0.0.1", port))
            other.listen()

        monkeypatch.setattr("app.page.build_demo", build_demo)
        monkeypatch.setattr("mask2kan.runtime.memory.keep_freed_memory", lambda: True)
        main = runpy.run_path(str(ROOT / "app.py"))["main"]
        assert main(["--port", str(port)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"Port {port} on 127.0.0.1 is in use: choose another with --port or " + (
        "GRADIO_SERVER_PORT."
    )


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["--prot", "1"], 2)])
def test_arguments_are_explained(
    arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        settle(arguments)
    assert stopped.value.code == status
    told = capsys.readouterr()
    expected = "GRADIO_SERVER_PORT" if status == 0 else "unrecognized arguments: --prot"
    assert expected in told.out + told.err


def test_the_app_behind_proxies(tmp_path: Path) -> None:
    """It answers on this machine past all of them; the Hub is asked through the one that works."""
    with (
        WebProxy() as proxy,
        serving(
            tmp_path,
            tiny_models(tmp_path),
            HTTP_PROXY=proxy.origin,
            HTTPS_PROXY="http://127.0.0.1:9",
            ALL_PROXY=SOCKS,
            NO_PROXY="",
            HF_HUB_OFFLINE="0",
            HF_ENDPOINT="http://hub.invalid",
        ) as app,
    ):
        client = Client(app.url, verbose=False, httpx_kwargs={"trust_env": False})
        with pytest.raises(AppError, match="someone/tiny"):
            client.predict(handle_file(EXAMPLE), "someone/tiny", api_name="/segment")
        log = app.log.read_text(encoding="utf-8")
    assert "ALL_PROXY can't be used: it is a SOCKS proxy" in log
    assert "secret" not in log
    assert {url.split("/")[2] for _, url in proxy.asked} == {"hub.invalid"}
