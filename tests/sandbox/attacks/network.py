"""Hostile programs that want out."""

from interlock_sandbox import OutcomeKind
from tests.sandbox.attacks.attack import attack

NETWORK = [
    attack(
        "connects_by_every_family",
        """
    import socket
    def connect(family, kind, address):
        with socket.socket(family, kind) as sock:
            sock.settimeout(1)
            if kind == socket.SOCK_DGRAM:
                return sock.sendto(b"hello", address)
            sock.connect(address)
            return sock.send(b"hello")
    def run(tcp, udp, unix, unix_datagram, abstract, tcp6=1, **_):
        return {"got": tried(
            lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", tcp)),
            lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", udp)),
            lambda: connect(socket.AF_INET6, socket.SOCK_STREAM, ("::1", tcp6)),
            lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, unix),
            lambda: connect(socket.AF_UNIX, socket.SOCK_DGRAM, unix_datagram),
            lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + abstract),
            lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.1", 9)),  # an address nobody has
        )}
    """,
    ),
    attack(
        "uses_the_network_by_libraries",
        """
    import socket
    def run(tcp, **_):
        import http.client, urllib.request, ftplib, smtplib
        return {"got": tried(
            lambda: urllib.request.urlopen(f"http://127.0.0.1:{tcp}/", timeout=1).status,
            lambda: http.client.HTTPConnection("127.0.0.1", tcp, timeout=1).connect(),
            lambda: socket.create_connection(("127.0.0.1", tcp), 1),
            lambda: socket.gethostbyname("nobody.invalid"),
            lambda: smtplib.SMTP("127.0.0.1", tcp, timeout=1),
        )}
    """,
        OutcomeKind.COMPLETED,
        OutcomeKind.TOOL_ERROR,
    ),
    attack(
        "opens_sockets_by_raw_calls",
        """
    def run(calls, **_):
        families = {"unix": 1, "inet": 2, "inet6": 10, "netlink": 16, "packet": 17, "alg": 38,
                        "vsock": 40, "xdp": 44}
        got = []
        for name, family in families.items():
            for kind in (1, 2, 3, 5):
                result, _ = call(calls["socket"], family, kind, 0)
                if result >= 0:
                    got.append(name)
        return {"got": got}
    """,
    ),
    attack(
        "turns_socket_pairs_outward",
        """
    import socket
    def run(unix, unix_datagram, abstract, **_):
        left, right = socket.socketpair()
        def datagrams():
            a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            return a.sendto(b"hello", unix_datagram)
        return {"got": tried(
            lambda: left.connect(unix) or "connected",
            lambda: left.bind("/tmp/mine") or "bound",
            lambda: left.listen() or "listens",
            lambda: left.sendto(b"hello", unix) and "sent",
            lambda: left.sendto(b"hello", "\\0" + abstract) and "sent",
            datagrams,
        )}
    """,
    ),
]
