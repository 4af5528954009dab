"""Hostile programs that want out."""

from interlock_sandbox import Layer, OutcomeKind
from tests.sandbox.attacks.attack import attack

_CALLS = (Layer.SECCOMP,)
_CALLS_AND_TREE = (Layer.SECCOMP, Layer.ROOT, Layer.LANDLOCK)

# By the C library, past everything that Python's own module checks and remembers.
_RAW = """
import struct
def opened(family, kind):
    number = libc.socket(family, kind, 0)
    if number < 0:
        raise OSError
    return number
def inet(port, host="127.0.0.1"):
    return struct.pack("=H", 2) + struct.pack("!H4s8x", port, bytes(map(int, host.split("."))))
def inet6(port):
    return struct.pack("=H", 10) + struct.pack("!HI16sI", port, 0, bytes(15) + b"\\1", 0)
def local(name):
    return struct.pack("=H", 1) + name.encode()
def reaches(number, address):
    if libc.connect(number, address, len(address)) != 0:
        raise OSError
    return "connected"
def sends(number, address, data=b"hello"):
    if libc.sendto(number, data, len(data), 0, address, len(address)) < 0:
        raise OSError
    return "sent"
"""

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
        sign="tcp heard somebody",
    ),
    attack(
        "uses_the_network_by_libraries",
        """
    import socket, asyncio
    def run(tcp, **_):
        async def stream():
            await asyncio.open_connection("127.0.0.1", tcp)
            return "connected"
        return {"got": tried(
            lambda: socket.create_connection((b"127.0.0.1", tcp), 1),
            lambda: asyncio.run(stream()),
            lambda: socket.gethostbyname("nobody.invalid"),
            lambda: __import__("urllib.request").request.urlopen(f"http://127.0.0.1:{tcp}", timeout=1),
            lambda: __import__("http.client").client.HTTPConnection("127.0.0.1", tcp, timeout=1).connect(),
            lambda: __import__("smtplib").SMTP("127.0.0.1", tcp, timeout=1),
        )}
    """,
        OutcomeKind.COMPLETED,
        OutcomeKind.TOOL_ERROR,
        sign="tcp heard somebody",
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
        held_by=_CALLS,
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
        held_by=_CALLS_AND_TREE,
        sign="unix_datagram heard somebody",
    ),
    attack(
        "addresses_the_messages_of_a_pair",
        """
    import socket
    def run(unix, unix_datagram, abstract, **_):
        got = []
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
            for name in (unix, unix_datagram, "\\0" + abstract):
                got += tried(lambda: socket.socketpair(socket.AF_UNIX, kind)[0].sendmsg([b"x"], [], 0, name))
        return {"got": got}
    """,
        held_by=_CALLS_AND_TREE,
        sign="unix_datagram heard somebody",
    ),
    attack(
        "speaks_tcp_by_the_c_library",
        _RAW
        + """
def run(tcp, **_):
    return {"got": tried(lambda: reaches(opened(2, 1), inet(tcp)))}
""",
        sign="tcp heard somebody",
    ),
    attack(
        "speaks_udp_by_the_c_library",
        _RAW
        + """
def run(udp, **_):
    return {"got": tried(lambda: sends(opened(2, 2), inet(udp)), lambda: sends(opened(10, 2), inet6(udp)))}
""",
        sign="udp heard somebody",
    ),
    attack(
        "speaks_ipv6_by_the_c_library",
        _RAW
        + """
def run(tcp6=9, **_):
    return {"got": tried(lambda: opened(10, 1), lambda: reaches(opened(10, 1), inet6(tcp6)))}
""",
        held_by=_CALLS,
    ),
    attack(
        "speaks_to_a_socket_by_its_path",
        _RAW
        + """
def run(unix, **_):
    return {"got": tried(lambda: reaches(opened(1, 1), local(unix + "\\0")))}
""",
        held_by=_CALLS_AND_TREE,
        sign="unix heard somebody",
    ),
    attack(
        "speaks_to_an_abstract_socket_by_its_name",
        _RAW
        + """
def run(abstract, **_):
    return {"got": tried(lambda: reaches(opened(1, 1), local("\\0" + abstract)))}
""",
        sign="abstract heard somebody",
    ),
    attack(
        "logs_in_to_the_databases_of_the_host",
        _RAW
        + """
def run(tcp, unix, **_):
    startup = struct.pack("!II", 41, 196608) + b"user\\0postgres\\0database\\0postgres\\0\\0"
    doors = [(2, inet(tcp)), (2, inet(5432)), (2, inet(6379)), (1, local(unix + "\\0"))] + [
        (1, local(name + "\\0")) for name in ("/var/run/postgresql/.s.PGSQL.5432", "/tmp/.s.PGSQL.5432",
                                              "/run/valkey/valkey.sock", "/run/redis/redis-server.sock")]
    def log_in(family, address):
        number = opened(family, 1)
        reaches(number, address)
        return os.write(number, startup)
    return {"got": tried(*(lambda door=door: log_in(*door) for door in doors))}
""",
        sign="tcp heard somebody",
    ),
    attack(
        "asks_the_metadata_service",
        _RAW
        + """
def run(**_):
    got = []
    for kind in (1 | 0o4000, 2):
        got += tried(lambda: opened(2, kind))
        got += tried(lambda: reaches(opened(2, kind), inet(80, "169.254.169.254")))
    return {"got": got}
""",
        held_by=_CALLS,
    ),
    attack(
        "asks_a_name_server",
        _RAW
        + """
def run(udp, **_):
    query = struct.pack("!6H", 7, 256, 1, 0, 0, 0) + b"\\6secret\\7invalid\\0" + struct.pack("!2H", 16, 1)
    return {"got": tried(
        lambda: sends(opened(2, 2), inet(udp), query),
        lambda: sends(opened(2, 2), inet(53), query),
        lambda: sends(opened(2, 2), inet(53, "127.0.0.53"), query),
    )}
""",
        sign="udp heard somebody",
    ),
    attack(
        "listens_for_others",
        _RAW
        + """
def run(scratch, **_):
    def listens(family, kind, address):
        number = opened(family, kind)
        if libc.bind(number, address, len(address)) != 0 or (kind != 2 and libc.listen(number, 1) != 0):
            raise OSError
        return "listens"
    return {"got": tried(
        lambda: listens(2, 1, inet(0, "0.0.0.0")),
        lambda: listens(2, 2, inet(0, "0.0.0.0")),
        lambda: listens(1, 1, local(scratch + "/mine\\0")),
        lambda: listens(1, 1, local("\\0interlock-mine")),
    )}
""",
        held_by=_CALLS,
    ),
    attack(
        "asks_the_kernel_for_the_interfaces",
        _RAW
        + """
def run(**_):
    def routes():
        number = opened(16, 3)
        request = struct.pack("=IHHIIBxxx", 20, 18, 0x301, 1, 0, 0)
        sends(number, struct.pack("=HHII", 16, 0, 0, 0), request)
        return os.read(number, 4096).hex()
    return {"got": tried(routes)}
""",
        held_by=_CALLS,
    ),
    attack(
        "sniffs_packets",
        _RAW
        + """
def run(calls, **_):
    call(calls["unshare"], 0x50000000)  # a user and a network namespace of its own, where it would be root
    return {"got": tried(lambda: opened(17, 3), lambda: opened(2, 3))}
""",
        held_by=_CALLS,
    ),
    attack(
        "calls_the_host_of_the_machine",
        _RAW
        + """
def run(**_):
    # vsock, which reaches past every interface; netlink; the kernel's ciphers; rarer families
    doors = [(40, 1), (40, 2), (16, 2), (38, 5), (30, 5), (21, 5), (44, 3), (41, 2), (42, 2), (43, 1)]
    return {"got": tried(*(lambda door=door: opened(*door) for door in doors))}
""",
        held_by=_CALLS,
    ),
]
