"""A web server of files in memory, that knows Range requests and can break off."""

import contextlib
import http.server
import threading


class Site:
    """Files by path, and how they are served.

    Attributes:
      files: {"/path": bytes}.
      breaks: after how many bytes the transfers end, one after the other; whole ones after these.
      ranges: whether Range requests are answered.
      asked: (path, Range header or None) of every request.
    """

    def __init__(self, files):
        self.files, self.breaks, self.ranges, self.asked, self.url = dict(files), [], True, [], ""


@contextlib.contextmanager
def serve(files):
    """Serve files on this machine, and give the site; its `url` ends without "/"."""
    site = Site(files)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            site.asked.append((self.path, wanted))
            body = site.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and site.ranges else 0
            if start and start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            end = start + site.breaks.pop(0) if site.breaks else len(body)
            self.wfile.write(body[start:end])

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
