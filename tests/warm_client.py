"""`python`, `snakemake`, `saesteer` and `dvc` of tests' small runs: a process that warm_python.py forks runs them.

Copied beside the server's socket, with a first line that names the interpreter. What is no script and no module runs as always.
"""

import json
import os
import signal
import socket
import sys

PYTHON, (program, *arguments) = sys.executable, sys.argv
if os.path.basename(program) != "python":
    arguments = [os.path.join(os.path.dirname(PYTHON), os.path.basename(program)), *arguments]
if not arguments or (arguments[0].startswith("-") and arguments[0] != "-m"):
    os.execv(PYTHON, [PYTHON, *arguments])
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(os.path.join(os.path.dirname(program), "socket"))
    request = json.dumps({"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2])
    connection.sendall(request)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: connection.sendall(bytes([number])))
    answer = connection.recv(4)
status = int.from_bytes(answer, "big") if answer else signal.SIGKILL
if status >= 0x100:
    sys.exit(status >> 8)
if status:  # ended by a signal
    signal.signal(status, signal.SIG_DFL)
    os.kill(os.getpid(), status)
