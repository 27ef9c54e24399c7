"""A health service on gRPC's own server: NOT_SERVING while the file `broken` is there."""

import os
import sys
from concurrent import futures

import grpc

DIRECTORY = sys.argv[1]


def check(request, context):
    # HealthCheckRequest { service: "shop" }
    if request != b"\x0a\x04shop":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
    broken = os.path.exists(os.path.join(DIRECTORY, "broken"))
    return b"\x08\x02" if broken else b"\x08\x01"


server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((
    grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
    ),
))
server.add_insecure_port("[::]:50051")
server.start()
server.wait_for_termination()
