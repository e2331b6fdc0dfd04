"""Debian's nginx on loopback, with a folder of the test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# /slow/ sends 0.5 MB/s to a connection, /broken/ answers 503, and /plain/ sends no ranges.
_CONFIG = """
daemon off; pid nginx.pid; error_log error.log; worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log access.log; client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t;
    uwsgi_temp_path t; scgi_temp_path t;
    sendfile on; tcp_nopush on;  # as Debian sets them
    server {{
        listen 127.0.0.1:{port}; root {root}; autoindex on;
        location /slow/ {{ alias {root}/; limit_rate 500k; }}
        location /plain/ {{ alias {root}/; max_ranges 0; }}
        location /broken/ {{ return 503; }}
    }}
}}
"""


@contextmanager
def serving(root: Path, work: Path, congestion: str | None = None) -> Iterator[str]:
    """The URL of a server whose root is `root`; it works in the folder `work`.

    congestion: TCP's congestion control of what it sends, in place of the machine's own. Raises
    OSError for one that this machine lacks, or reserves for root.
    """
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, "apt-get install nginx-light"
    work.mkdir()
    # An unprivileged worker of a server that root starts cannot read a test's folder.
    user = ["-g", "user root;"] if os.geteuid() == 0 else []
    command = [program, "-p", str(work), "-c", "nginx.conf", "-e", "error.log", *user]
    # nginx inherits the socket: no other program gets its port, and clients wait until nginx runs.
    with socket.create_server(("127.0.0.1", 0), backlog=511) as listener:
        if congestion is not None:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        fd, port = listener.fileno(), listener.getsockname()[1]
        (work / "nginx.conf").write_text(_CONFIG.format(port=port, root=root))
        environment = {**os.environ, "NGINX": f"{fd};"}
        server = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, env=environment, pass_fds=[fd]
        )
    with server:
        try:
            yield f"http://127.0.0.1:{port}"
            assert server.poll() is None, (work / "error.log").read_text()
        finally:
            server.terminate()
