"""nginx itself, before a backend that answers 404."""

import http.client
import http.server
import pathlib
import sys
import threading

sys.path.insert(0, "<<ROOT>>")
from recipes.engines import Nginx, free_port

CELL = """
<<CELL>>
"""


class Backend(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404)
        self.end_headers()

    def log_message(self, *words):
        pass


backend = http.server.HTTPServer(("127.0.0.1", 0), Backend)
threading.Thread(target=backend.serve_forever, daemon=True).start()


def headers(cell):
    folder, port = pathlib.Path.cwd() / str(len(cell)), free_port()
    folder.mkdir()
    text = f"""pid {folder}/nginx.pid;
events {{}}
http {{
  upstream backend {{ server 127.0.0.1:{backend.server_port}; }}
  server {{ listen 127.0.0.1:{port}; {cell} }}
}}"""
    engine = Nginx(folder, text, port)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/api/")
        return {name.lower() for name, _ in connection.getresponse().getheaders()}
    finally:
        engine.stop()


wanted = {"strict-transport-security", "x-content-type-options", "content-security-policy"}
assert wanted <= headers(CELL)
without = headers(CELL.replace("add_header_inherit merge;", ""))
assert without & wanted == {"content-security-policy"}, without
print("shows with merge an error of the location has all three headers, without it only its own")
