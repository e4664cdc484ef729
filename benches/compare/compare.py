#!/usr/bin/env python3
"""Measures FluxMQ beside other MQTT brokers, in one interleaved run.

    cargo build --profile perf --bins
    benches/compare/compare.py                                # every broker found, every scenario, 3 rounds
    benches/compare/compare.py -r 7 -s q1-32,q0-32 fluxmq mosquitto nats

Brokers are taken from PATH (mosquitto, nats-server, rumqttd); ours from target/perf. Nothing is installed. Each run starts
a fresh broker on loopback, with an empty directory and nothing but a listener configured, loads it with `mqttctl bench`, reads
the processor time of its process, and ends it. The order is scenario, round, broker, so that all brokers of a row meet
the same state of the machine. Prints medians and the spread (highest over lowest) as a Markdown table; -o writes every run as a line of JSON.

Durability when a publish is confirmed, as each broker comes: FluxMQ flushed to disk (D2); with `fluxmq-mem` written and not yet
flushed (D1); mosquitto, NATS and rumqttd in memory (D0). Compare within a class.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BINARIES = ROOT / "target" / "perf"
PORT = 28883

SCENARIOS = {
    "q0-32": ["-q", "0", "-s", "32"],
    "q0-256": ["-q", "0", "-s", "256"],
    "q1-32": ["-q", "1", "-s", "32", "-I", "64"],
    "q1-10x10": ["-q", "1", "-s", "64", "-x", "10", "-y", "10", "--topics", "10", "-I", "20"],
    "q2-32": ["-q", "2", "-s", "32", "-I", "64"],
    "fanout-100": ["-q", "0", "-s", "64", "-y", "100"],
    "fanin-100": ["-q", "1", "-s", "64", "-x", "100", "-I", "10"],
    "lat-q1-1k": ["-q", "1", "-s", "64", "-r", "1000"],
}


def fluxmq(directory, *extra):
    return [str(BINARIES / "fluxmq"), "--mqtt", f"127.0.0.1:{PORT}", "--data", str(directory / "data"), *extra]


def configured(directory, name, text):
    path = directory / name
    path.write_text(text)
    return str(path)


def mosquitto(directory):
    lines = [f"listener {PORT} 127.0.0.1", "allow_anonymous true", "max_queued_messages 0", "max_inflight_messages 1000"]
    return [shutil.which("mosquitto"), "-c", configured(directory, "mosquitto.conf", "\n".join(lines) + "\n")]


def nats(directory):
    text = f'server_name: bench\nlisten: "127.0.0.1:{PORT + 1}"\njetstream {{ store_dir: "{directory}/js" }}\n'
    text += f'mqtt {{ listen: "127.0.0.1:{PORT}" }}\n'
    return [shutil.which("nats-server"), "-c", configured(directory, "nats.conf", text)]


def rumqttd(directory):
    text = f"""id = 0
[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v4.1]
name = "bench"
listen = "127.0.0.1:{PORT}"
next_connection_delay_ms = 0
    [v4.1.connections]
    connection_timeout_ms = 60000
    max_payload_size = 1048576
    max_inflight_count = 1000
    dynamic_filters = true
"""
    return [shutil.which("rumqttd"), "-c", configured(directory, "rumqttd.toml", text)]


BROKERS = {
    "fluxmq": (fluxmq, lambda: (BINARIES / "fluxmq").exists()),
    "fluxmq-mem": (lambda directory: fluxmq(directory, "--config", memory_class(directory)), lambda: (BINARIES / "fluxmq").exists()),
    "mosquitto": (mosquitto, lambda: shutil.which("mosquitto")),
    "nats": (nats, lambda: shutil.which("nats-server")),
    "rumqttd": (rumqttd, lambda: shutil.which("rumqttd")),
}


def memory_class(directory):
    return configured(directory, "fluxmq.yaml", "storage:\n  durability: quorum_mem\n")


def wait_for_port(process, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            return False
        try:
            socket.create_connection(("127.0.0.1", PORT), timeout=0.2).close()
            return True
        except OSError:
            time.sleep(0.05)
    return False


def cpu_seconds(pid):
    """Processor seconds of a process, all threads, user and kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return None


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run(broker, scenario, seconds):
    """One run: a fresh broker, one load. Returns what it measured, or None with the reason on standard error."""
    with tempfile.TemporaryDirectory(prefix="fluxmq-compare-") as name:
        directory = Path(name)
        command, _ = BROKERS[broker]
        with open(directory / "log", "wb") as log:
            process = subprocess.Popen(command(directory), stdout=log, stderr=log)
        try:
            if not wait_for_port(process):
                tail = (directory / "log").read_text(errors="replace")[-400:]
                print(f"{broker} did not start: {tail}", file=sys.stderr)
                return None
            before = cpu_seconds(process.pid)
            load = [str(BINARIES / "mqttctl"), "bench", "--json", "-V", "3.1.1", "-z", str(seconds)]
            load += ["-p", str(PORT), *SCENARIOS[scenario]]
            done = subprocess.run(load, capture_output=True, text=True, timeout=seconds + 120)
            lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            if done.returncode > 1 or not lines:
                print(f"{broker} {scenario}: {done.stderr.strip()[-400:]}", file=sys.stderr)
                return None
            result = lines[-1]
            result.update(cpu_s=cpu_seconds(process.pid) - before, peak_mib=peak_mib(process.pid))
            return result
        finally:
            stop(process)


def median(values):
    return statistics.median(values) if values else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("-z", "--seconds", type=int, default=3, help="seconds of load in each run")
    parser.add_argument("-s", "--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("-o", "--output", help="file for every run, one JSON object a line")
    parser.add_argument("brokers", nargs="*", help=f"of {', '.join(BROKERS)}; all that are there by default")
    arguments = parser.parse_args()
    brokers = arguments.brokers or [name for name, (_, is_there) in BROKERS.items() if is_there()]
    scenarios = arguments.scenarios.split(",")
    for name, known in [*((name, BROKERS) for name in brokers), *((name, SCENARIOS) for name in scenarios)]:
        if name not in known:
            parser.error(f"unknown '{name}'; there are: {', '.join(known)}")
    if not (BINARIES / "mqttctl").exists():
        parser.error("target/perf/mqttctl is not there: run 'cargo build --profile perf --bins'")
    for name in brokers:
        if not BROKERS[name][1]():
            parser.error(f"{name} is not installed")
    output = open(arguments.output, "a") if arguments.output else None
    columns = "| Scenario | Broker | Received/s | × first | p50 ms | p99 ms | CPU s per million | Peak MiB | Missing | Spread |"
    print(columns + "\n" + "|---" * 10 + "|", flush=True)
    for scenario in scenarios:
        results = {broker: [] for broker in brokers}
        for round_number in range(arguments.rounds):
            for broker in brokers:
                result = run(broker, scenario, arguments.seconds)
                if result is None:
                    continue
                results[broker].append(result)
                if output:
                    output.write(json.dumps({"scenario": scenario, "broker": broker, "round": round_number, **result}) + "\n")
        report(scenario, brokers, results)


def report(scenario, brokers, results):
    base = None
    for broker in brokers:
        runs = results[broker]
        if not runs:
            print(f"| {scenario} | {broker} | - |" + " - |" * 7, flush=True)
            continue
        rates = [one["received_per_s"] for one in runs]
        rate = median(rates)
        base = base or rate
        cpu = median([one["cpu_s"] * 1e6 / max(one["received"], 1) for one in runs])
        latency = [median([one["delivery_latency_us"][key] / 1000 for one in runs]) for key in ("p50", "p99")]
        missing = max(one["missing"] for one in runs)
        spread = max(rates) / max(min(rates), 1)
        cells = [scenario, broker, f"{rate:,.0f}", f"{rate / base:.2f}", f"{latency[0]:.2f}", f"{latency[1]:.2f}", f"{cpu:.2f}"]
        cells += [f"{median([one['peak_mib'] for one in runs]):.0f}", str(missing), f"{spread:.2f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
