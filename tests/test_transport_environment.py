"""What stands in the environment does not change where a request goes, nor what goes with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyhole.catalog import Upstream
from keyhole.io.transport import PooledTransport
from keyhole.wire.http import Timeouts, UpstreamRequest
from standins import Reply, StandIn

PATIENT = Timeouts(connect_s=30, first_byte_s=30, total_s=30)


async def test_proxies_and_netrc_are_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password hidden\n")
    netrc.chmod(0o600)
    transport = PooledTransport()
    try:
        async with StandIn(Reply(body=b"{}")) as upstream, StandIn(Reply(418)) as proxy:
            for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv("NETRC", str(netrc))
            request = UpstreamRequest(
                upstream=Upstream(name="far", kind="tgi", url=upstream.url), path="/x", body=b"{}"
            )
            response = await transport.send(request, request_id="the-id", timeouts=PATIENT)
            assert response.status == 200
            assert proxy.requests == []
            assert upstream.requests[0].header("authorization") is None
    finally:
        await transport.aclose()
