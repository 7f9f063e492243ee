#!/usr/bin/python3
"""An HTTPS target for the test of the http sink: tls_receiver.py DIRECTORY

Uses server.pem and server.key of the directory, prints its port, accepts every
batch that has the token, and ends after 25 events or once there is a file
`stop`.
"""
import http.server
import json
import os
import ssl
import sys

directory = sys.argv[1]
n_events = 0


class Handler(http.server.BaseHTTPRequestHandler):
    timeout = 10

    def do_POST(self):
        global n_events
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != "Bearer a-token":
            self.send_error(401)
            return
        n_events += len(json.loads(body))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        pass  # handshakes that fail are the point


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.path.join(directory, "server.pem"),
                        os.path.join(directory, "server.key"))
server = Server(("127.0.0.1", 0), Handler)
server.socket = context.wrap_socket(
    server.socket, server_side=True, do_handshake_on_connect=False)
server.timeout = 0.1
print(server.server_port, flush=True)
while n_events < 25 and not os.path.exists(os.path.join(directory, "stop")):
    server.handle_request()
