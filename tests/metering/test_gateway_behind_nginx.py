"""The gateway behind a real nginx, configured as docs/gateway.md says, with the real shipper, before a service that meters nothing.

Debian's package `nginx-light` is enough. Without nginx these tests are skipped, but never where `.ci/run` runs them.
"""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from metering import invariants
from metering.models import Call
from tests.clients import Answer, get, get_many
from tests.conftest import ROOT, MakeTenant, Product, environment, free_port, listens, wait_until
from tests.metering.ledger import Books, books

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
SECRET = "of-the-operator-" * 3
pytestmark = pytest.mark.skipif(
    NGINX is None and os.environ.get("CI") != "true", reason="nginx is not installed; Debian: apt install nginx-light"
)


class Service(BaseHTTPRequestHandler):
    """A small service that knows nothing of metering: it answers with the status in its path, and says what it was told."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status = int(self.path.rpartition("/")[2])
        told = {name.lower(): value for name, value in self.headers.items() if name.lower().startswith("meterhouse-")}
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def configuration(folder: Path, *, product: int, service: int, port: int) -> str:
    """The page's configuration as it stands there, with this test's ports and folder."""
    page = (ROOT / "docs" / "gateway.md").read_text()
    block = re.search(r"```nginx\n(.*?)```", page, re.DOTALL)
    assert block is not None
    server = (
        block[1].replace("127.0.0.1:8000", f"127.0.0.1:{product}").replace("127.0.0.1:9000", f"127.0.0.1:{service}")
    )
    server = server.replace("127.0.0.1:8080", f"127.0.0.1:{port}").replace("/var/log/nginx", str(folder))
    bodies = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{name}_temp_path {folder}/{name};\n" for name in bodies)
    user = "user root;\n" if os.getuid() == 0 else ""
    return (
        f"{user}daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;\n"
        f"events {{ worker_connections 512; }}\nhttp {{\n{paths}{server}\n}}\n"
    )


@pytest.fixture
def stack(start_product: Callable[..., Product], tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Where nginx listens, in front of the service; behind it two web processes of the product, and the shipper."""
    assert NGINX is not None, "Install nginx: .ci/run does."
    gate = {"GATE_SECRETS": SECRET}
    product, port = start_product(workers=2, **gate), free_port()
    service = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    service.daemon_threads = True
    threading.Thread(target=service.serve_forever, args=(0.05,), daemon=True).start()
    config, errors = tmp_path / "nginx.conf", tmp_path / "error.log"
    config.write_text(configuration(tmp_path, product=product.address[1], service=service.server_port, port=port))
    follow = [
        sys.executable,
        "manage.py",
        "gate_outcomes",
        "--follow",
        f"{tmp_path}/meterhouse.log",
        "--url",
        product.url,
    ]
    shipper = subprocess.Popen(follow, cwd=ROOT, env={**environment(port), **gate})
    nginx = subprocess.Popen([NGINX, "-p", str(tmp_path), "-c", str(config), "-e", str(errors)])
    try:
        wait_until(lambda: listens(port) or nginx.poll() is not None, what="nginx's start")
        assert nginx.poll() is None, errors.read_text()
        yield "127.0.0.1", port
    finally:
        for process in (nginx, shipper):
            process.send_signal(signal.SIGTERM)
        assert [process.wait(timeout=20) for process in (nginx, shipper)] == [0, 0]
        service.shutdown()
        service.server_close()


def settled(tenant_id: Any) -> Books:
    """The books once the shipper has told everything."""

    def pending() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM metering_pending WHERE tenant_id = %s", [tenant_id])
            return int(cursor.fetchone()[0])

    wait_until(lambda: pending() == 0 and books(tenant_id).reserved == 0, what="the last outcome")
    kept = books(tenant_id)
    kept.assert_balanced()
    assert invariants.broken(tenant_id=tenant_id) == {}
    return kept


def test_nginx_meters_a_service_that_knows_nothing_of_it(stack: tuple[str, int], make_tenant: MakeTenant) -> None:
    """Exactly the limit, refusals with their true status and body, failures not billed, nothing that a client may claim."""
    acme, initech = make_tenant(included=120, burst_per_second=10**6), make_tenant("Initech", included=9)
    answers = get_many(stack, "/objects/200", acme.api_key, count=150, clients=8)
    refused = [answer for answer in answers if answer.status != 200]
    assert Counter(answer.status for answer in answers) == {200: 120, 429: 30}
    for answer in refused:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["refused_by"] == "quota"
        assert int(answer.headers["retry-after"]) >= 1
        assert "r=0" in answer.headers["ratelimit"]
    served = answers[0]
    assert served.headers["ratelimit-policy"].startswith('"month";q=120')
    assert settled(acme.tenant.id).rolled_up["billable"] == 120

    check_refusals(stack)
    failed = [get(stack, "/objects/500", initech.api_key) for _ in range(15)]
    settled(initech.tenant.id)
    assert Counter(answer.status for answer in failed)[500] >= 9
    assert failed[0].json["meterhouse-tenant"] == str(initech.tenant.id)  # the service's own 500 passes through
    spoofed = call(
        stack,
        initech.api_key,
        Meterhouse_Capability="cheap",
        Meterhouse_Cost="0",
        Meterhouse_Tenant=str(acme.tenant.id),
    )
    named = {name: spoofed.json.get(f"meterhouse-{name}") for name in ("tenant", "project", "call-id", "key")}
    assert named == {
        "tenant": str(initech.tenant.id), "project": str(initech.key.project_id),
        "call-id": spoofed.headers["meterhouse-call-id"], "key": None,
    }  # fmt: skip
    kept = settled(initech.tenant.id)
    assert (kept.rolled_up["billable"], kept.rolled_up["failed"]) == (1, Counter(a.status for a in failed)[500])
    recorded = Call.objects.get(id=spoofed.headers["meterhouse-call-id"])
    assert (recorded.capability, recorded.units, recorded.status) == ("storage", 1, 201)
    assert recorded.latency_us is not None
    assert get(stack, "/gate", None).status in {401, 404}


def check_refusals(stack: tuple[str, int]) -> None:
    unknown = get(stack, "/objects/200", "mh_live_nonsense")
    assert (unknown.status, unknown.headers["www-authenticate"]) == (401, 'Bearer realm="meterhouse"')
    assert unknown.json["status"] == 401
    assert get(stack, "/objects/200", None).status == 401


def call(address: tuple[str, int], key: str, **headers: str) -> Answer:
    """One call with fields that a client has no business to send."""
    client = http.client.HTTPConnection(*address, timeout=30)
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    client.request("GET", "/objects/201", headers={"Authorization": f"Bearer {key}", **fields})
    response = client.getresponse()
    answer = Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    client.close()
    return answer
