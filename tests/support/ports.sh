# free_port: prints a port that is free for TCP and UDP, another one at each call, from below the range that the kernel
# hands out to connections, so that none of them takes it before the server that it is for. To be sourced; keeps what it
# gave in "$work".
free_port() {
    mkdir -p "${work:?}/ports"
    python3 - "$work/ports" <<'PYTHON'
import os, random, socket, sys

while True:
    port = random.randrange(12000, 30000)
    try:
        os.mkdir(os.path.join(sys.argv[1], str(port)))
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as one:
                one.bind(("0.0.0.0", port))
    except OSError:
        continue
    print(port)
    break
PYTHON
}
