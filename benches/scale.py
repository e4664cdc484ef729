#!/usr/bin/env python3
"""Measures how FluxMQ grows: queues, sessions, replay out of a large log, and what acknowledgements cost.

    cargo build --profile perf --bins
    benches/scale.py queues                       # 100 queues against 100,000, as fast as it goes
    benches/scale.py queues --rate 200000         # the same at the same total rate
    benches/scale.py sessions --count 1000000     # that many stored sessions, idle: memory, and restart to serving
    benches/scale.py claims                       # a queue claimed and acknowledged, against plain QoS 1
    benches/scale.py replay --gib 10              # a filter that selects 0.1 % of a log: bytes read
    benches/scale.py acks                         # what is written for the same load without and with a consumer
    benches/scale.py mix                          # the same for many sizes, QoS 0 to 2, retained messages, queues, fan-out, sessions away

Linux, Python 3.9 or newer, nothing to install. Each broker is fresh, on loopback, in a directory below --dir that is removed afterwards,
with nothing configured but what is printed. Rounds are interleaved, so that what is compared meets the same state of the machine;
medians are printed, with the lowest and the highest round. Needs free ports from --port on, and an open file for each connection.
"""

import argparse
import collections
import json
import multiprocessing
import os
import random
import select
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINGER_NOT = struct.pack("ii", 1, 0)
MIB = 1 << 20

# Publishes that are sent together: the bytes, how many, what is sent when all are answered (PUBREL), those to be answered, and
# how many of them are stored, with how many bytes of payload.
Window = collections.namedtuple("Window", "data count release answers stored stored_bytes")


class Broker:
    """A broker on a directory of its own."""

    def __init__(self, options, data, settings=None):
        self.options, self.data, self.settings = options, data, settings or {}
        self.process = None

    def start(self):
        """Starts it and returns the seconds until it takes connections."""
        command = [str(Path(self.options.bin) / "fluxmq"), "--mqtt", f"127.0.0.1:{self.options.port}", "--data", str(self.data)]
        began = time.monotonic()
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, **self.settings})
        while True:
            try:
                Client(self.options.port, f"probe-{time.monotonic_ns()}").close()
                return time.monotonic() - began
            except OSError:
                if self.process.poll() is not None or time.monotonic() - began > 300:
                    raise SystemExit(f"the broker does not start: {' '.join(command)}")
                time.sleep(0.01)

    def end(self, how=signal.SIGTERM):
        """Ends it and returns the seconds that takes."""
        began = time.monotonic()
        self.process.send_signal(how)
        self.process.wait()
        return time.monotonic() - began

    def proc(self, name):
        return Path(f"/proc/{self.process.pid}/{name}").read_text()

    def resident_bytes(self):
        line = next(line for line in self.proc("status").splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) << 10

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def io(self):
        """Bytes that system calls read and wrote, those on sockets not among them."""
        fields = dict(line.split(": ") for line in self.proc("io").splitlines())
        return {key: int(value) for key, value in fields.items()}

    def cpu_s(self):
        fields = self.proc("stat").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def text(value):
    data = value.encode()
    return struct.pack("!H", len(data)) + data


def packet(kind, body):
    length, out = len(body), bytearray([kind])
    while True:
        length, digit = divmod(length, 128)
        out.append(digit | (128 if length else 0))
        if not length:
            return bytes(out) + body


def publish(topic, packet_id, payload, qos=1, retain=False):
    number = struct.pack("!H", packet_id) if qos else b""
    return packet(0x30 | qos << 1 | retain, text(topic) + number + payload)


def subscribe_5(topic, qos, *user):
    """SUBSCRIBE of MQTT 5 with user properties."""
    properties = b"".join(b"\x26" + text(key) + text(value) for key, value in user)
    return packet(0x82, struct.pack("!HB", 1, len(properties)) + properties + text(topic) + bytes([qos]))


class Client:
    """A connection that sends bytes and counts packets."""

    def __init__(self, port, client_id, version=4, source=None, properties=b""):
        self.socket = socket.create_connection(("127.0.0.1", port), 30, source)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        extra = bytes([len(properties)]) + properties if version == 5 else b""
        self.socket.sendall(packet(0x10, text("MQTT") + bytes([version, 2]) + struct.pack("!H", 0) + extra + text(client_id)))
        kind, body = self.next()
        if kind >> 4 != 2 or body[1] != 0:
            raise SystemExit(f"the broker refuses '{client_id}': {body.hex()}")

    def receive(self):
        data = self.socket.recv(1 << 18)
        if not data:
            raise SystemExit("the broker ended the connection")
        self.buffer += data

    def packets(self):
        """All whole packets that have come: the first byte and the rest."""
        buffer, at, out = self.buffer, 0, []
        while True:
            length, shift, head = 0, 0, at + 1
            while head < len(buffer):
                length |= (buffer[head] & 127) << shift
                shift, head = shift + 7, head + 1
                if not buffer[head - 1] & 128:
                    break
            else:
                break
            if head + length > len(buffer):
                break
            out.append((buffer[at], bytes(buffer[head : head + length])))
            at = head + length
        del buffer[:at]
        return out

    def next(self):
        while True:
            found = self.packets()
            if found:
                assert len(found) == 1, found
                return found[0]
            self.receive()

    def close(self):
        self.socket.close()


class Load:
    """Publishers that send prepared windows, each when the one before is confirmed."""

    def __init__(self, port, windows_of):
        self.lanes, self.stored, self.stored_bytes = [], 0, 0
        for number, windows in enumerate(windows_of):
            client = Client(port, f"publisher-{number}-{time.monotonic_ns()}")
            self.lanes.append([client, windows, 0, 0, b""])

    def run(self, count, rate=None):
        """Publishes about `count` messages in all, no more than `rate` a second, and returns how many, and the seconds."""
        began, sent, done = time.monotonic(), 0, 0
        poll, by_fd, idle = select.epoll(), {}, collections.deque(self.lanes)
        for lane in self.lanes:
            by_fd[lane[0].socket.fileno()] = lane
            poll.register(lane[0].socket, select.EPOLLIN)
        while done < sent or sent < count:
            while idle and sent < count and (rate is None or sent <= (time.monotonic() - began) * rate):
                sent += self.send(idle.popleft())
            waits = 60 if rate is None or not idle or sent >= count else max(0, began + sent / rate - time.monotonic())
            found = poll.poll(waits)
            if not found and waits == 60:
                raise SystemExit("nothing was confirmed for a minute")
            for fd, _ in found:
                lane = by_fd[fd]
                data = lane[0].socket.recv(1 << 16)
                if not data:
                    raise SystemExit("the broker ended a publisher's connection")
                lane[3] -= len(data)
                if lane[3] == 0 and lane[4]:
                    # PUBREC, and then PUBCOMP, are as long as PUBREL.
                    lane[3], release, lane[4] = len(lane[4]), lane[4], b""
                    lane[0].socket.sendall(release)
                elif lane[3] == 0:
                    done += lane[1][lane[2] - 1].count
                    idle.append(lane)
        return done, time.monotonic() - began

    def send(self, lane):
        window = lane[1][lane[2] % len(lane[1])]
        lane[2] = lane[2] % len(lane[1]) + 1
        # PUBACK and PUBREC of MQTT 3.1.1 have four bytes.
        lane[3], lane[4] = 4 * window.answers, window.release
        self.stored += window.stored
        self.stored_bytes += window.stored_bytes
        lane[0].socket.sendall(window.data)
        return window.count


def windows(topics, window, payload):
    """Publishes to topics in turn, as windows of bytes to send."""
    out = []
    for begin in range(0, len(topics), window):
        some = topics[begin : begin + window]
        data, count = b"".join(publish(topic, at + 1, payload) for at, topic in enumerate(some)), len(some)
        out.append(Window(data, count, b"", count, count, count * len(payload)))
    return out


def spread(values, form="{:.0f}"):
    values = sorted(values)
    show = form.format
    return f"{show(statistics.median(values))} ({show(values[0])} to {show(values[-1])})"


def directory(options):
    return Path(tempfile.mkdtemp(prefix="fluxmq-scale-", dir=options.dir))


# --- queues


def measure_queues(options, count, most):
    data = directory(options)
    broker = Broker(options, data)
    broker.start()
    topics = [f"$queue/orders-{number}/new" for number in range(count)]
    lanes = 8
    load = Load(options.port, [windows(topics[lane::lanes] * max(1, 4000 // count), 200, bytes(200)) for lane in range(lanes)])
    # As many messages for few queues as for many: the log has its caches.
    load.run(most)
    cpu = broker.cpu_s()
    done, seconds = load.run(options.messages, options.rate)
    cpu, memory, files = broker.cpu_s() - cpu, broker.resident_bytes(), broker.open_files()
    broker.end()
    shutil.rmtree(data)
    return {"queues": count, "per_s": done / seconds, "cpu_us": cpu / done * 1e6, "mib": memory / MIB, "files": files}


def queues(options):
    """Publishes as much to few queues and to many, in turn."""
    sizes, found = [100, options.count or 100_000], {}
    for _ in range(options.rounds):
        for size in sizes:
            it = measure_queues(options, size, sizes[1])
            print(json.dumps(it), file=sys.stderr)
            found.setdefault(size, []).append(it)
    print("| Queues | messages/s | broker's CPU, µs a message | memory in the end, MiB | open files |\n|---|---|---|---|---|")
    for size in sizes:
        rows = [spread([it[key] for it in found[size]], form) for key, form in (("per_s", "{:.0f}"), ("cpu_us", "{:.2f}"), ("mib", "{:.0f}"), ("files", "{:.0f}"))]
        print(f"| {size} | {' | '.join(rows)} |")
    ratios = [many["per_s"] / few["per_s"] for few, many in zip(found[sizes[0]], found[sizes[1]])]
    print(f"\nthroughput with {sizes[1]} over that with {sizes[0]}, round by round: {spread(ratios, '{:.2f}')}")
    more = [many["mib"] - few["mib"] for few, many in zip(found[sizes[0]], found[sizes[1]])]
    print(f"more memory, round by round: {spread(more)} MiB")


# --- sessions


def open_sessions(options, numbers, at_once=200):
    """Opens sessions that outlive their connections, each with one subscription, and cuts the connections off."""
    poll, waiting, left, done = select.epoll(), {}, iter(numbers), 0
    properties = b"\x11" + struct.pack("!I", 604_800)

    def begin():
        number = next(left, None)
        if number is None:
            return
        it = socket.socket()
        it.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        it.connect(("127.0.0.1", options.port))
        name = f"device-{number:07}"
        connect = packet(0x10, text("MQTT") + bytes([5, 0]) + struct.pack("!HB", 0, len(properties)) + properties + text(name))
        it.sendall(connect + subscribe_5(f"to/{name}/#", 1))
        it.setblocking(False)
        poll.register(it, select.EPOLLIN)
        waiting[it.fileno()] = [it, b""]

    for _ in range(at_once):
        begin()
    while waiting:
        for fd, _ in poll.poll(60):
            it = waiting[fd]
            data = it[0].recv(4096)
            it[1] += data
            # CONNACK is the first packet, SUBACK the second and last.
            if data and len(it[1]) < 2 + it[1][1] + 2:
                continue
            if not data or it[1][3] != 0 or it[1][2 + it[1][1]] != 0x90:
                raise SystemExit(f"a session was refused: {it[1].hex()}")
            poll.unregister(fd)
            it[0].close()
            del waiting[fd]
            done += 1
            begin()
    return done


def sessions(options):
    """Makes sessions and lets their clients go; then restarts in order, and after SIGKILL."""
    count, data = options.count or 1_000_000, directory(options)
    broker = Broker(options, data)
    broker.start()
    empty, began = broker.resident_bytes(), time.monotonic()
    step = min(count, 50_000)
    for begin in range(0, count, step):
        open_sessions(options, range(begin, min(begin + step, count)))
        print(f"{begin + step} sessions, {broker.resident_bytes() / MIB:.0f} MiB", file=sys.stderr)
    made = time.monotonic() - began
    time.sleep(5)
    rows = [("made", made, broker.cpu_s(), broker.resident_bytes())]
    ended = broker.end()
    for how in ("SIGTERM", "SIGKILL", "SIGKILL"):
        started = broker.start()
        rows.append((f"started after {how}", started, broker.cpu_s(), broker.resident_bytes()))
        ask_for_sessions(options, count)
        if how == "SIGTERM":
            # What a power cut would leave to be read again: the log since the last snapshot.
            open_sessions(options, range(count, count + min(count, 50_000)))
        broker.end(signal.SIGKILL)
    size = sum(path.stat().st_size for path in data.rglob("*.snap*") if path.is_file())
    print(f"{count} sessions with a subscription each; an empty broker has {empty / MIB:.0f} MiB; ended in order in {ended:.1f} s; snapshots {size / MIB:.0f} MiB\n")
    print("| | seconds | of the broker's CPU | resident MiB | bytes a session |\n|---|---|---|---|---|")
    for what, seconds, cpu, resident in rows:
        print(f"| {what} | {seconds:.1f} | {cpu:.1f} | {resident / MIB:.0f} | {(resident - empty) / count:.0f} |")
    shutil.rmtree(data)


def ask_for_sessions(options, count):
    """Some sessions are there, with their subscriptions."""
    for number in range(0, count, max(1, count // 7)):
        it = socket.create_connection(("127.0.0.1", options.port), 30)
        name = f"device-{number:07}"
        properties = b"\x11" + struct.pack("!I", 604_800)
        it.sendall(packet(0x10, text("MQTT") + bytes([5, 0]) + struct.pack("!HB", 0, len(properties)) + properties + text(name)))
        answer = it.recv(4096)
        assert answer[0] == 0x20 and answer[2] == 1, f"{name} has no session: {answer.hex()}"
        it.close()


# --- claims


def measure_claims(options, topic, group):
    data = directory(options)
    broker = Broker(options, data)
    broker.start()
    bench = [str(Path(options.bin) / "mqttctl"), "bench", "-p", str(options.port), "-q", "1", "-s", "64", "-I", str(options.window), "-z", str(options.seconds), "--json", "-t", topic]
    said = subprocess.run(bench + group, stdout=subprocess.PIPE, check=True).stdout
    cpu = broker.cpu_s()
    broker.end()
    shutil.rmtree(data)
    report = json.loads(said)
    return {"topic": topic, "per_s": report["received_per_s"], "cpu_us": cpu / report["received"] * 1e6}


def claims(options):
    """Plain QoS 1 and a queue with one group, in turn."""
    found = {"bench": [], "$queue/bench": []}
    for _ in range(options.rounds):
        for topic, group in (("bench", []), ("$queue/bench", ["--group", "workers"])):
            found[topic].append(measure_claims(options, topic, group))
            print(json.dumps(found[topic][-1]), file=sys.stderr)
    print("| | delivered and acknowledged a second | broker's CPU, µs a message |\n|---|---|---|")
    for topic, name in (("bench", "plain QoS 1"), ("$queue/bench", "queue, one group")):
        print(f"| {name} | {spread([it['per_s'] for it in found[topic]])} | {spread([it['cpu_us'] for it in found[topic]], '{:.2f}')} |")
    pairs = zip(found["bench"], found["$queue/bench"])
    print(f"\nqueue over plain, round by round: {spread([queue['per_s'] / plain['per_s'] for plain, queue in pairs], '{:.2f}')}")


# --- replay


def replay(options):
    """Fills a log with a thousand topics, and replays some of them, each a thousandth of it."""
    data, payload = directory(options), os.urandom(1024)
    kept = {"FLUXMQ_HISTORY__BYTES_MAX": str(64 << 30)}
    broker = Broker(options, data, kept)
    broker.start()
    topics, lanes = [f"site/{number}/temperature" for number in range(1000)], 8
    shuffled = [topics[(at * 7919 + at // 1000 * 31) % 1000] for at in range(200 * 1000)]
    load = Load(options.port, [windows(shuffled[lane::lanes], 200, payload) for lane in range(lanes)])
    count = int(options.gib * (1 << 30) / (len(payload) + 60))
    done, seconds = load.run(count)
    print(f"{done} messages of {len(payload)} bytes in {seconds:.0f} s, {done / seconds:.0f}/s", file=sys.stderr)
    # Indexes of what was sealed last are built beside.
    time.sleep(options.patience)
    stored = sum(path.stat().st_size for path in data.rglob("*.seg") if path.is_file())
    print(f"log of {stored / (1 << 30):.2f} GiB, of which 128 MiB are cached\n")
    print("| Filter | messages | bytes read | for each | of the log | over the 4 KiB blocks of the matches | messages/s |\n|---|---|---|---|---|---|---|")
    for filter_ in ("site/7/temperature", "site/8/temperature", "site/9/+", "site/+/nothing"):
        subscriber = Client(options.port, f"reads-{time.monotonic_ns()}", 5)
        before, began, got, ids = broker.io()["rchar"], time.monotonic(), 0, []
        subscriber.socket.sendall(subscribe_5(filter_, 0, ("replay-from", "earliest")))
        subscriber.socket.settimeout(options.patience)
        last = began
        try:
            while True:
                subscriber.receive()
                some = sum(kind >> 4 == 3 for kind, _ in subscriber.packets())
                got += some
                last = time.monotonic() if some else last
        except socket.timeout:
            pass
        read = broker.io()["rchar"] - before
        # A record of 1,024 bytes and what is around it is in 1.27 blocks of 4,096 on average.
        blocks = got * (1 + (len(payload) + 60) / 4096) * 4096
        ratio = f"{read / blocks:.2f}" if got else "-"
        each = f"{read / got:.0f}" if got else "-"
        print(f"| `{filter_}` | {got} | {read / MIB:.1f} MiB | {each} | {read / stored * 100:.2f} % | {ratio} | {got / max(last - began, 1e-9):.0f} |")
        subscriber.close()
    broker.end()
    shutil.rmtree(data)


# --- acks


def measure_acks(options, consumers):
    data = directory(options)
    broker = Broker(options, data)
    broker.start()
    before = broker.io()
    bench = [str(Path(options.bin) / "mqttctl"), "bench", "-p", str(options.port), "-q", "1", "-s", "256", "-x", "4", "-I", "64", "-C", str(options.messages // 4), "--json", "-t", "$queue/bench"]
    group = ["-y", "4", "--group", "workers"] if consumers else ["-y", "0"]
    report = json.loads(subprocess.run(bench + group, stdout=subprocess.PIPE, check=True).stdout)
    time.sleep(2)
    io, count, cpu = broker.io(), report["confirmed"], broker.cpu_s()
    broker.end()
    said = subprocess.run([str(Path(options.bin) / "wal-tools"), "stat", str(data)], stdout=subprocess.PIPE, text=True, check=True).stdout
    shutil.rmtree(data)
    return {
        "consumers": consumers,
        "per_s": report["confirmed_per_s"],
        "log_bytes": total(said, "stored bytes") / count,
        "frames": total(said, "frames") / count,
        "written": (io["wchar"] - before["wchar"]) / count,
        "cpu_us": cpu / count * 1e6,
    }


def total(said, what):
    """Sums a line of the statistics of each partition."""
    found, is_partition = 0, False
    for line in said.splitlines():
        if line and not line.startswith(" "):
            is_partition = line.startswith("p")
        words = line.rsplit(None, 1)
        if is_partition and len(words) == 2 and words[0].strip() == what:
            found += int(words[1])
    return found


def acks(options):
    """The same publishes to a queue that nobody reads, and to one whose entries are acknowledged as they come."""
    found = {False: [], True: []}
    for _ in range(options.rounds):
        for consumers in found:
            found[consumers].append(measure_acks(options, consumers))
            print(json.dumps(found[consumers][-1]), file=sys.stderr)
    keys = [("per_s", "{:.0f}"), ("log_bytes", "{:.1f}"), ("frames", "{:.4f}"), ("written", "{:.1f}"), ("cpu_us", "{:.2f}")]
    print("| For each message of 256 bytes | published/s | bytes of log | frames, each a flush | bytes written, zeros of new segments included | broker's CPU, µs |\n|---|---|---|---|---|---|")
    for consumers, name in ((False, "published only"), (True, "published, delivered, acknowledged")):
        print(f"| {name} | {' | '.join(spread([it[key] for it in found[consumers]], form) for key, form in keys)} |")


# --- mix

SEED, PLANTS, AWAY, SUBSCRIBERS, GROUPS = 7, 10, 100, 50, 20
SIZES = ((64, 60), (256, 25), (1024, 12), (16384, 3))
LEVELS = ((0, 30), (1, 60), (2, 10))
SIDES = (("published only", False, False), ("and read by 50 subscribers", True, False), ("and settled by 20 groups", True, True))


def drawn(dice, parts):
    return dice.choices([value for value, _ in parts], [weight for _, weight in parts])[0]


def mixed_windows(dice, count, window):
    """Publishes of many kinds; a fifth for queues, 5 % retained."""
    out, noise = [], random.Random(SEED).randbytes(16384)
    for _ in range(count // window):
        data, release, answers, stored, stored_bytes = [], [], 0, 0, 0
        for at in range(1, window + 1):
            size, qos, kind = drawn(dice, SIZES), drawn(dice, LEVELS), dice.random()
            plant, site = dice.randrange(PLANTS), dice.randrange(400)
            retain = kind < 0.05
            topic = f"plant/{plant}/site/{site}/{'state' if retain else 'temperature'}"
            if kind >= 0.8:
                topic = f"$queue/work-{dice.randrange(GROUPS)}/new"
            is_stored = qos > 0 or retain or kind >= 0.8
            data.append(publish(topic, at, noise[-size:], qos, retain))
            if qos == 2:
                release.append(packet(0x62, struct.pack("!H", at)))
            answers += qos > 0
            stored += is_stored
            stored_bytes += size * is_stored
        out.append(Window(b"".join(data), window, b"".join(release), answers, stored, stored_bytes))
    return out


def session_5(port, name, expiry_s, filter_, *user):
    """A session with a subscription."""
    properties = b"\x11" + struct.pack("!I", expiry_s)
    client = Client(port, name, 5, None, properties)
    client.socket.sendall(subscribe_5(filter_, 1, *user))
    kind, body = client.next()
    if kind != 0x90 or body[-1] & 0x80:
        raise SystemExit(f"'{filter_}' is refused: {body.hex()}")
    return client


def read_mix(port, names, seed, ready, is_over, said):
    """Reads with many connections and acknowledges, those of queues out of order, until nothing comes any more."""
    dice, poll, by_fd, got = random.Random(seed), select.epoll(), {}, 0
    for name, filter_, expiry_s, *user in names:
        client = session_5(port, name, expiry_s, filter_, *user)
        client.socket.setblocking(False)
        by_fd[client.socket.fileno()] = (client, filter_.startswith("$queue"), [])
        poll.register(client.socket, select.EPOLLIN)
    ready.set()
    while True:
        events = poll.poll(1)
        if not events and is_over.is_set() and not any(held for _, _, held in by_fd.values()):
            break
        for fd in [fd for fd, _ in events] or list(by_fd):
            client, is_queue, held = by_fd[fd]
            if events:
                client.receive()
            ids = []
            for kind, body in client.packets():
                if kind >> 4 != 3:
                    continue
                got += 1
                if kind & 6:
                    at = 2 + struct.unpack_from("!H", body)[0]
                    ids.append(body[at : at + 2])
            if is_queue:
                # What was held back goes now, and one of eight is held back for the next time.
                dice.shuffle(ids)
                keep = len(ids) // 8 if events else 0
                ids, held[:] = held + ids[keep:], ids[:keep]
            client.socket.setblocking(True)
            client.socket.sendall(b"".join(packet(0x40, it) for it in ids))
            client.socket.setblocking(False)
    said.put(got)


def measure_mix(options, name, has_subscribers, has_groups):
    data = directory(options)
    broker = Broker(options, data)
    broker.start()
    for number in range(AWAY):
        session_5(options.port, f"away-{number}", 604_800, f"plant/{number % PLANTS}/#").close()
    # Half of the subscribers have stored sessions: their places are in the log.
    subscribers = [(f"reads-{it}", f"plant/{it % PLANTS}/#", 3600 * (it % 2)) for it in range(SUBSCRIBERS)]
    groups = [(f"works-{it}", f"$queue/work-{it}/#", 0, ("consumer-group", "workers")) for it in range(GROUPS)]
    readers, said, is_over = [], multiprocessing.Queue(), multiprocessing.Event()
    for names in [subscribers] * has_subscribers + [groups] * has_groups:
        ready = multiprocessing.Event()
        reader = multiprocessing.Process(target=read_mix, args=(options.port, names, SEED, ready, is_over, said))
        reader.start()
        readers.append(reader)
        if not ready.wait(60):
            raise SystemExit("readers do not come to subscribe")
    dice, lanes = random.Random(SEED), 8
    load = Load(options.port, [mixed_windows(dice, 4000, 200) for _ in range(lanes)])
    before, cpu = broker.io(), broker.cpu_s()
    done, seconds = load.run(options.messages)
    is_over.set()
    received = sum(said.get(timeout=600) for _ in readers)
    for reader in readers:
        reader.join()
    time.sleep(2)
    io, cpu = broker.io(), broker.cpu_s() - cpu
    broker.end()
    sizes = {end: sum(path.stat().st_size for path in data.rglob(f"*.{end}")) for end in ("six", "snap")}
    stat = subprocess.run([str(Path(options.bin) / "wal-tools"), "stat", str(data)], stdout=subprocess.PIPE, text=True, check=True).stdout
    shutil.rmtree(data)
    return {
        "side": name,
        "messages": done,
        "stored": load.stored,
        "stored_bytes": load.stored_bytes,
        "received": received,
        "per_s": done / seconds,
        "log": total(stat, "stored bytes") / load.stored_bytes,
        "control": total(stat, "control bytes") / load.stored_bytes,
        "frames": total(stat, "frames") / load.stored,
        "written": (io["write_bytes"] - before["write_bytes"]) / load.stored_bytes,
        "called": (io["wchar"] - before["wchar"]) / load.stored_bytes,
        "six": sizes["six"] / load.stored_bytes,
        "snap": sizes["snap"] / load.stored_bytes,
        "cpu_us": cpu / done * 1e6,
    }


def mix(options):
    """The same publishes, read by nobody, by subscribers, and by these and consumer groups."""
    found = {name: [] for name, _, _ in SIDES}
    for _ in range(options.rounds):
        for side in SIDES:
            found[side[0]].append(measure_mix(options, *side))
            print(json.dumps(found[side[0]][-1]), file=sys.stderr)
    first = found[SIDES[0][0]][0]
    print(f"{first['messages']} messages, {first['stored']} of them stored, with {first['stored_bytes'] / MIB:.0f} MiB of payload\n")
    columns = (
        ("log", "bytes of log"),
        ("control", "of them in control records"),
        ("six", "indexes"),
        ("snap", "snapshots that are kept"),
        ("called", "bytes written by calls"),
        ("written", "bytes written to the disk"),
    )
    print(f"| For each byte of payload stored | {' | '.join(name for _, name in columns)} | frames a stored message | published/s | broker's CPU, µs a message |")
    print("|" + "---|" * (len(columns) + 4))
    for name, rounds in found.items():
        cells = [spread([it[key] for it in rounds], "{:.4f}") for key, _ in columns]
        cells += [spread([it["frames"] for it in rounds], "{:.4f}"), spread([it["per_s"] for it in rounds]), spread([it["cpu_us"] for it in rounds], "{:.2f}")]
        print(f"| {name} | {' | '.join(cells)} |")
    print()
    for name in list(found)[1:]:
        shares = [(after["log"] / before["log"] - 1) * 100 for before, after in zip(found[SIDES[0][0]], found[name])]
        print(f"log that acknowledgements add, {name}, round by round: {spread(shares, '{:.2f}')} %")
    if not first["written"]:
        print("no byte went to a disk: the directory is in memory, name another one with --dir")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scenarios = {"queues": queues, "sessions": sessions, "claims": claims, "replay": replay, "acks": acks, "mix": mix}
    parser.add_argument("scenario", choices=scenarios)
    parser.add_argument("-r", "--rounds", type=int, default=5, help="rounds of each (5)")
    parser.add_argument("-c", "--count", type=int, help="sessions, or queues")
    parser.add_argument("-m", "--messages", type=int, default=400_000, help="messages of a round (400,000)")
    parser.add_argument("--rate", type=int, help="messages a second to queues (as many as go)")
    parser.add_argument("-z", "--seconds", type=int, default=5, help="seconds of a round of claims (5)")
    parser.add_argument("-w", "--window", type=int, default=64, help="unconfirmed publishes of claims (64)")
    parser.add_argument("--gib", type=float, default=10, help="GiB of log to replay from (10)")
    parser.add_argument("--patience", type=float, default=3, help="seconds without a message that end a replay (3)")
    parser.add_argument("--port", type=int, default=28980, help="loopback port (28980)")
    parser.add_argument("--bin", default=str(ROOT / "target" / "perf"), help="where fluxmq, mqttctl and wal-tools are (target/perf)")
    parser.add_argument("--dir", default=None, help="where data directories are made (that of temporary files)")
    options = parser.parse_args()
    scenarios[options.scenario](options)


if __name__ == "__main__":
    main()
