"""What is no InfluxDB, asked as if it were one."""

import http.server
import threading
from contextlib import closing

import pytest

from connectors.influx_admin import InfluxAdmin
from connectors.influx_bucket import InfluxError


@pytest.mark.parametrize(("code", "body"), [(302, "<a>login</a>"), (200, "<html>"), (599, "x")])
def test_what_is_no_influxdb_is_told_so(code, body):
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with closing(InfluxAdmin(url, "t", "o")) as admin, pytest.raises(InfluxError, match=url):
            admin.fresh()
        server.shutdown()
