"""What happens to requests while `keyhole serve` is stopping."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from processes.driving import serving, wait_for

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n{"generated_text": " !"}'


@contextlib.contextmanager
def waiting_upstream(may_answer: threading.Event) -> Iterator[int]:
    """The port of a TGI server that answers its one request when it may."""

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            may_answer.wait(30)
            connection.sendall(ANSWER)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir(mode=0o700)
    return tmp_path


def is_refused(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.settimeout(0.2)
            connection.recv(1)
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


def test_new_connections_are_refused_at_once_while_a_request_finishes(own: Path):
    may_answer = threading.Event()
    with waiting_upstream(may_answer) as port, ThreadPoolExecutor(1) as pool:
        (own / "keyhole.toml").write_text(
            f'[upstream.gpu]\nkind = "tgi"\nurl = "http://127.0.0.1:{port}"\n'
            '[route.default]\ntargets = ["gpu/m"]\n'
        )
        with serving(data=own / "data", home=own) as server:
            asked = pool.submit(server.ask, {"input": "Hm"})
            try:
                wait_for(lambda: server.in_flight() == 1, "a request in flight")
                server.signal(signal.SIGTERM)
                wait_for(lambda: is_refused(server.port), "refused", within_s=10)
                assert not asked.done()
            finally:
                may_answer.set()
            assert asked.result().json == [{"generated_text": "Hm !"}]
            assert server.wait() == 0
