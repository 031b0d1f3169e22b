"""A collector of traces: an OTLP receiver over gRPC that says each span it takes as a line of JSON, and answers as it is told.

usage: otlp.py [PORT]
It says `listening on 127.0.0.1:PORT` on stderr. Lines on stdin change how it answers:
  ok | unavailable | invalid | exhausted [SECONDS] | partial REJECTED | hang
Each batch is a line {"batch": N, "answer": ...} and each span of a batch that is taken {"span": {...}}.
"""
import json
import sys
import threading
from concurrent import futures

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc

lock = threading.Lock()
release = threading.Event()
mode = ["ok"]


def say(what):
    with lock:
        print(json.dumps(what), flush=True)


def value(any_value):
    kind = any_value.WhichOneof("value")
    return getattr(any_value, kind) if kind else None


def attributes(pairs):
    keys = [pair.key for pair in pairs]
    assert len(keys) == len(set(keys)), f"a key stands twice: {keys}"
    return {pair.key: value(pair.value) for pair in pairs}


def spans(request):
    for of_resource in request.resource_spans:
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield {
                    "trace_id": span.trace_id.hex(),
                    "span_id": span.span_id.hex(),
                    "parent_id": span.parent_span_id.hex(),
                    "tracestate": span.trace_state,
                    "name": span.name,
                    "kind": int(span.kind),
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "status": int(span.status.code),
                    "flags": span.flags,
                    "attributes": attributes(span.attributes),
                    "links": [{"trace_id": l.trace_id.hex(), "span_id": l.span_id.hex()} for l in span.links],
                    "resource": attributes(of_resource.resource.attributes),
                    "scope": of_scope.scope.name,
                }


class Receiver(rpc.TraceServiceServicer):
    def Export(self, request, context):
        answer = list(mode)
        found = list(spans(request))
        known = type(request)()
        known.CopyFrom(request)
        known.DiscardUnknownFields()
        assert known.SerializeToString() == request.SerializeToString(), "fields that are not in the schema"
        say({"batch": len(found), "answer": answer[0]})
        if answer[0] == "unavailable":
            context.abort(grpc.StatusCode.UNAVAILABLE, "come back later")
        if answer[0] == "invalid":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
        if answer[0] == "exhausted":
            if len(answer) > 1:
                delay = duration_pb2.Duration()
                delay.FromNanoseconds(int(float(answer[1]) * 1e9))
                detail = any_pb2.Any()
                detail.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
                status = status_pb2.Status(code=8, message="full", details=[detail])
                context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        if answer[0] == "hang":
            release.wait()
        for span in found:
            say({"span": span})
        response = service.ExportTraceServiceResponse()
        if answer[0] == "partial":
            response.partial_success.rejected_spans = int(answer[1])
            response.partial_success.error_message = "too old"
        return response


def main():
    port = sys.argv[1] if len(sys.argv) > 1 else "0"
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    rpc.add_TraceServiceServicer_to_server(Receiver(), server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print(f"listening on 127.0.0.1:{bound}", file=sys.stderr, flush=True)
    for line in sys.stdin:
        mode[:] = line.split()
        release.set() if mode[0] != "hang" else release.clear()
        say({"mode": mode[0]})
    server.stop(0)


main()
