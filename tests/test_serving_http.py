"""The server as its clients see it: those of Triton, unmodified, and others that mean no good."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import loading
from offramp.base.arrays import AnyArray
from offramp.base.errors import DataError, InputError
from offramp.plan.plan import Plan
from offramp.runtime import Stages, infer
from offramp.serving import Address, Door, Limits, Listener
from offramp.serving.protocol import NAMES, NamedTensor, of_bytes, read_query, to_bytes
from offramp.serving.tracing import LOG, TraceContext, log_to
from tests.made import blobs, picture
from tests.served import blob_plans, image_plan, serving

X, _ = blobs(200, seed=9)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return blob_plans(tmp_path_factory.mktemp("plan"), 0.02)[0]


@pytest.fixture(scope="module")
def server(plan: Plan) -> Iterator[Listener]:
    with serving(plan) as listener:
        yield listener


@pytest.fixture(scope="module")
def expected(plan: Plan) -> Any:
    return infer(plan, Stages(plan.networks, plan.graph), X)


def asked(kind: Any, x: AnyArray, name: str = "x", **how: Any) -> Any:
    one = kind.InferInput(name, list(x.shape), NAMES.get(x.dtype, "BYTES"))
    one.set_data_from_numpy(x, **how)
    return one


def http(server: Listener, **how: Any) -> Any:
    return tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}", **how)


def grpc(server: Listener, **how: Any) -> Any:
    return tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}", **how)


def same(found: Any, expected: Any, rows: slice = slice(None)) -> None:
    assert (found.as_numpy("answer") == expected.answer[rows]).all()
    stages = [s.decode() if isinstance(s, bytes) else s for s in found.as_numpy("stage")]
    assert stages == expected.stage[rows].tolist()
    assert found.as_numpy("cost").tolist() == expected.cost[rows].tolist()
    assert np.array_equal(found.as_numpy("scores"), expected.scores[rows])


@pytest.mark.parametrize("binary", [True, False])
def test_the_http_client_of_triton_is_answered(
    server: Listener, expected: Any, binary: bool
) -> None:
    kind = tritonclient.http
    with http(server) as client:
        inputs = [asked(kind, X, binary_data=binary)]
        outputs = [
            kind.InferRequestedOutput(name, binary_data=binary)
            for name in ("answer", "stage", "cost", "scores")
        ]
        for wanted in (outputs, None):
            found = client.infer("blobs", inputs, request_id="r1", outputs=wanted)
            said = found.get_response()
            assert (said["model_name"], said["model_version"], said["id"]) == ("blobs", "1", "r1")
            assert said["parameters"]["budget"] == 0.02
            same(found, expected)
        some = client.infer("blobs", inputs, outputs=outputs[:1])
        assert [o["name"] for o in some.get_response()["outputs"]] == ["answer"]


@pytest.mark.parametrize("how", ["gzip", "deflate"])
def test_compressed_bodies_are_read(server: Listener, expected: Any, how: str) -> None:
    with http(server) as client:
        inputs = [asked(tritonclient.http, X)]
        found = client.infer("blobs", inputs, request_compression_algorithm=how)
        same(found, expected)


def test_the_grpc_client_of_triton_is_answered(server: Listener, expected: Any) -> None:
    kind = tritonclient.grpc
    with grpc(server) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("blobs")
        assert client.get_server_metadata().name == "offramp"
        said = client.get_model_metadata("blobs", as_json=True)
        assert said["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "6"]}]
        found = client.infer("blobs", [asked(kind, X)], request_id="g", client_timeout=20)
        assert found.get_response().id == "g"
        assert found.get_response().parameters["budget"].double_param == 0.02
        same(found, expected)


def test_metadata_and_health_are_as_the_protocol_says(server: Listener) -> None:
    with http(server) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("blobs")
        assert client.is_model_ready("blobs", "1")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        said = client.get_model_metadata("blobs")
        assert said["platform"] == "offramp_plan"
        assert said["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 6]}]
        assert [o["name"] for o in said["outputs"]] == ["answer", "stage", "cost", "scores"]
        with pytest.raises(Exception, match="no model 'other'"):
            client.get_model_metadata("other")


def test_encoded_images_are_answered_as_what_is_in_them(tmp_path: Path) -> None:
    plan = image_plan(tmp_path)
    images = [picture((10 * i, 200, 30 + i), size=(20, 16)) for i in range(5)]
    encoded = np.array(images, dtype=object)
    from offramp.networks.images import decode

    assert plan.preprocessing is not None
    pixels = np.stack([decode(image, plan.preprocessing) for image in images])  # type: ignore[arg-type]
    alone = infer(plan, Stages(plan.networks, plan.graph), plan.preprocessing(pixels))  # type: ignore[operator]
    with serving(plan) as server, http(server) as client:
        said = client.get_model_metadata("blobs")["inputs"]
        assert [(i["datatype"], i["shape"]) for i in said] == [("BYTES", [-1])]
        name = said[0]["name"]
        same(client.infer("blobs", [asked(tritonclient.http, encoded, name)]), alone)
        with grpc(server) as other:
            same(other.infer("blobs", [asked(tritonclient.grpc, encoded, name)]), alone)
        broken = np.array([images[0], b"no image"], dtype=object)
        with pytest.raises(Exception, match="image 1 cannot be decoded"):
            client.infer("blobs", [asked(tritonclient.http, broken, name)])


INFER = "/v2/models/blobs/infer"


def posted(server: Listener, body: bytes, path: str = INFER, **headers: str) -> Any:
    """The status, headers and body of an answer, whatever it is."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", body or None, sent)
    try:
        with urllib.request.urlopen(request, timeout=20) as found:
            return found.status, found.headers, found.read()
    except urllib.error.HTTPError as problem:
        with problem:
            return problem.code, problem.headers, problem.read()


def query(**changed: Any) -> bytes:
    one = {"name": "x", "datatype": "FP32", "shape": [2, 6], "data": [0.5] * 12, **changed}
    return json.dumps({"inputs": [{k: v for k, v in one.items() if v is not None}]}).encode()


BAD: list[tuple[bytes, dict[str, str]]] = [
    (b"", {}),
    (b"{", {}),
    (b"[]", {}),
    (b'{"inputs": []}', {}),
    (b"\xff\xfe", {}),
    (b"[" * 100_000, {}),
    (query(datatype="FP31"), {}),
    (query(datatype="INT32"), {}),
    (query(shape=[2, 7]), {}),
    (query(shape=[-2, -6]), {}),
    (query(shape=[2**62, 2**62]), {}),
    (query(shape=[12], data=[0.5] * 12), {}),
    (query(data=[[0.5] * 6, [0.5] * 5]), {}),
    (query(data=["a"] * 12), {}),
    (query(data=[None] * 12), {}),
    (query(data=None), {}),
    (query(name="y"), {}),
    (query(data=None, parameters={"binary_data_size": 10**9}), {}),
    (query(data=None, parameters={"binary_data_size": -1}), {}),
    (query(data=None, parameters={"binary_data_size": "48"}), {}),
    (query() + b"behind", {"Inference_Header_Content_Length": str(len(query()))}),
    (query(), {"Inference_Header_Content_Length": "99999999"}),
    (query(), {"Inference_Header_Content_Length": "-1"}),
    (query(), {"Inference_Header_Content_Length": "\u00b2"}),
    (query(), {"Content_Encoding": "gzip"}),
    (json.dumps({"inputs": [], "outputs": [{"name": "nothing"}]}).encode(), {}),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_is_malformed_gets_400_in_a_sentence(server: Listener, number: int) -> None:
    body, headers = BAD[number]
    status, _, said = posted(server, body or b" ", **headers)
    assert status == 400
    sentence = json.loads(said)["error"]
    assert sentence.endswith(".")
    assert "Traceback" not in sentence


def test_a_good_request_is_answered_after_all_that(server: Listener) -> None:
    status, headers, said = posted(server, query())
    assert status == 200
    assert headers["content-type"] == "application/json"
    found = json.loads(said)
    assert [o["shape"] for o in found["outputs"]] == [[2], [2], [2], [2, 4]]


def test_other_paths_methods_and_encodings_are_said(server: Listener) -> None:
    assert posted(server, query(), "/v2/models/other/infer")[0] == 404
    assert posted(server, query(), "/v2/models/blobs/versions/9/infer")[0] == 404
    assert posted(server, b"", "/nothing")[0] == 404
    assert posted(server, b"", "/v2/models/blobs/infer")[0] == 405
    assert posted(server, query(), Content_Encoding="br")[0] == 415


@settings(max_examples=150)
@given(st.data())
def test_no_bytes_are_read_as_anything_but_a_request_or_an_error(data: st.DataObject) -> None:
    whole = bytearray(query(data=None, parameters={"binary_data_size": 48}) + X[:2].tobytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.none() | st.integers(0, len(whole)).map(str) | st.text(max_size=5))
    with suppress(DataError):
        found = read_query(bytes(whole[:cut]), length)
        assert all(tensor.values.size >= 0 for tensor in found.tensors)


@given(st.sampled_from(sorted(NAMES.values())), st.integers(0, 5), st.integers(1, 3))
def test_tensors_go_and_come_back(kind: str, rows: int, columns: int) -> None:
    dtype = next(d for d, name in NAMES.items() if name == kind)
    values = np.random.default_rng(rows).integers(0, 2, (rows, columns)).astype(dtype)
    assert np.array_equal(
        of_bytes(kind, [rows, columns], to_bytes(NamedTensor("t", kind, values))), values
    )


def test_bodies_and_rows_have_limits(plan: Plan) -> None:
    door = Door(body_bytes=2000, body_s=5)
    with serving(plan, limits=Limits(request_rows=4), door=door) as server:
        assert posted(server, b"x" * 3000)[0] == 413
        five = query(shape=[5, 6], data=[0.5] * 30)
        status, _, said = posted(server, five)
        assert (status, "at most 4" in json.loads(said)["error"]) == (400, True)
        assert posted(server, query())[0] == 200


def conversation(server: Listener, sent: bytes, timeout: float = 10) -> bytes:
    """What comes back on a bare connection until the server closes it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout) as line:
        line.sendall(sent)
        found = b""
        while piece := line.recv(65536):
            found += piece
        return found


def test_those_who_send_slowly_or_without_end_are_cut_off(plan: Plan) -> None:
    address = Address(port=0, header_s=0.1, header_bytes=2000)
    with serving(plan, address=address, door=Door(body_s=0.1)) as server:
        assert conversation(server, b"") == b""
        assert conversation(server, b"POST /v2/models/blobs/infer HTTP/1.1\r\nhost: a\r\n") == b""
        endless = b"GET /v2 HTTP/1.1\r\n" + b"a: b\r\n" * 1000
        assert conversation(server, endless) == b""
        cut = b"POST /v2/models/blobs/infer HTTP/1.1\r\nhost: a\r\ncontent-length: 99\r\n\r\n{"
        assert conversation(server, cut).startswith(b"HTTP/1.1 408")
        assert conversation(server, b"\x16\x03\x01 nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert posted(server, query())[0] == 200


def test_there_are_so_many_connections_and_no_more(plan: Plan) -> None:
    address = Address(port=0, connections=2)
    with serving(plan, address=address) as server:
        held = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(2)]
        for line in held:  # answered, so that the server has seen them
            line.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n")
            assert b"200 OK" in line.recv(1000)
        refused = conversation(server, b"")
        assert refused.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in refused
        for line in held:
            line.close()


def test_a_full_server_says_when_to_come_again(plan: Plan) -> None:
    with serving(plan, limits=Limits(rows=4)) as server:
        model = server.shelf.current
        assert model is not None
        model.service._room.used = 4
        status, headers, said = posted(server, query())
        assert (status, "full" in json.loads(said)["error"]) == (503, True)
        assert int(headers["retry-after"]) >= 1
        with grpc(server) as client, pytest.raises(Exception, match=r"UNAVAILABLE.*full"):
            client.infer("blobs", [asked(tritonclient.grpc, X[:2])])
        model.service._room.used = 0
        assert posted(server, query())[0] == 200


def test_a_key_is_asked_for(plan: Plan) -> None:
    with serving(plan, door=Door(api_key="s3cret")) as server:
        assert posted(server, b"", "/v2/health/live")[0] == 200
        for path in ("/v2", "/", "/metrics", "/live.json", "/v2/models/blobs"):
            status, headers, _ = posted(server, b"", path)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
        given = {"authorization": "Bearer s3cret"}
        assert posted(server, query(), **given)[0] == 200
        assert posted(server, query(), authorization="Bearer s3cre")[0] == 401
        with grpc(server) as client:
            inputs = [asked(tritonclient.grpc, X[:2])]
            with pytest.raises(Exception, match="API key"):
                client.infer("blobs", inputs)
            assert client.infer("blobs", inputs, headers=given).as_numpy("answer").shape == (2,)
    with pytest.raises(InputError, match="empty"):
        Door(api_key="")


def test_tls_is_spoken_where_there_is_a_certificate(plan: Plan, tmp_path: Path) -> None:
    own = trustme.CA().issue_cert("127.0.0.1")
    own.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    own.private_key_pem.write_to_path(tmp_path / "key.pem")
    address = Address(
        port=0, grpc_port=0, certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem"
    )
    with serving(plan, address=address) as server:
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        address_ = f"https://127.0.0.1:{server.port}/v2/health/ready"
        with urllib.request.urlopen(address_, context=trusting, timeout=20) as found:
            assert found.status == 200
        assert posted_fails(server)
    with pytest.raises(InputError, match="both"):
        Address(key=tmp_path / "key.pem")


def posted_fails(server: Listener) -> bool:
    try:
        posted(server, query())
    except OSError:
        return True
    return False


def test_traces_go_on_through_the_server(server: Listener) -> None:
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    _, headers, _ = posted(server, query(), traceparent=caller)
    made = headers["traceparent"].split("-")
    assert made[1] == "0af7651916cd43dd8448eb211c80319c"
    assert made[2] != "b7ad6b7169203331"
    for bad in ("00-0-0-00", "ff" + caller[2:], "00-" + "0" * 32 + caller[35:], ""):
        found = TraceContext.of(bad)
        assert (found.parent, len(found.trace), len(found.span)) == (None, 32, 16)


def test_it_is_seen_from_outside(plan: Plan) -> None:
    with serving(plan) as server:
        for _ in range(3):
            posted(server, query())
        posted(server, b"{")
        text = posted(server, b"", "/metrics")[2].decode()
        live = json.loads(posted(server, b"", "/live.json")[2])
        page = posted(server, b"", "/")[2].decode()
    assert 'offramp_requests_total{outcome="answered"} 3.0' in text
    rows = [line for line in text.splitlines() if line.startswith("offramp_rows_total{")]
    assert sum(float(line.split()[-1]) for line in rows) == 6
    assert 'offramp_queue_depth{stage="small"} 0.0' in text
    assert sum(live["stops"].values()) == 6
    assert live["certified_stops"] == dict(plan.profile.exits)
    assert "live.json" in page


def test_the_dashboard_asks_for_what_is_measured(plan: Plan) -> None:
    with serving(plan) as server:
        posted(server, query())
        board = json.loads(posted(server, b"", "/grafana.json")[2])
        text = posted(server, b"", "/metrics")[2].decode()
    asked_for = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"offramp_\w+", target["expr"])
    }
    there = set(re.findall(r"^# TYPE (offramp_\w+)", text, re.MULTILINE))
    ends = r"_(bucket|sum|count)$"
    assert {re.sub(ends, "", name) for name in asked_for} == {
        name for name in there if not name.endswith("_created")
    }


def test_logs_are_lines_of_json(plan: Plan) -> None:
    stream = io.StringIO()
    log_to(stream, "debug")
    try:
        with serving(plan) as server:
            posted(server, query(), traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
            posted(server, b"{")
    finally:
        logging.captureWarnings(False)
        LOG.setLevel("WARNING")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["status"], line["path"]) for line in requests] == [(200, INFER), (400, INFER)]
    assert (requests[0]["trace_id"], requests[0]["parent_id"]) == ("a" * 32, "b" * 16)
    assert all({"time", "level", "event"} <= line.keys() for line in lines)


def test_it_is_ready_until_it_is_to_end(plan: Plan) -> None:
    with serving(plan) as server:
        assert posted(server, b"", "/v2/health/ready")[0] == 200
        server.shelf.draining = True
        assert posted(server, b"", "/v2/health/ready")[0] == 503
        assert posted(server, b"", "/v2/health/live")[0] == 200


def test_the_command_serves_until_it_is_asked_to_end(plan: Plan, tmp_path: Path) -> None:
    plan.write(tmp_path / "blobs")
    (tmp_path / "key").write_text("s3cret\n")
    command = [sys.executable, "-c", "from offramp.cli import main; main()", "serve"]
    command += [str(tmp_path / "blobs"), "--port", "0", "--api-key", str(tmp_path / "key")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        where = next(line for line in process.stderr if line.startswith("http://"))
        address = where.partition(": ")[0]
        headers = {"authorization": "Bearer s3cret"}
        request = urllib.request.Request(f"{address}{INFER}", query(), headers)
        with urllib.request.urlopen(request, timeout=20) as found:
            assert len(json.load(found)["outputs"]) == 4
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
        assert process.wait(20) == 0
    assert json.loads(said.splitlines()[-1])["event"] == "ended"


def test_requests_with_flipped_bytes_lies_and_pauses_get_no_fault(plan: Plan) -> None:
    address = Address(port=0, header_s=0.2)
    request = loading.requests_of("blobs", X[:1])[0]
    with serving(plan, address=address, door=Door(body_s=0.2)) as server:
        assert server.port is not None
        answered = asyncio.run(loading.vandals(server.port, request, 200))
        assert asyncio.run(loading.asked_once(server.port, request)) == "200"
    assert sum(answered.values()) == 200
    assert answered["400"] > 20
    assert [status for status in answered if status.startswith("5")] == []
