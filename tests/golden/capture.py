#!/usr/bin/env python3
"""Captures remoting frames between the official Java client and the official Java servers.

    capture.py LIB [--out DIR]

LIB is a folder with the jars of rocketmq-namesrv, rocketmq-broker and rocketmq-tools of one release and their
dependencies. Starts a NameServer and a broker on 127.0.0.1 (twice: JSON headers, then binary ones), puts a capturing
proxy before each, runs Capture.java against them, and keeps the first frames of each kind. See README.md.
"""

import argparse
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import json

HERE = pathlib.Path(__file__).resolve().parent
# Five digits each: the proxy replaces the broker's port in route bodies byte for byte.
NAMESRV, NAMESRV_FOR_BROKER, NAMESRV_FOR_CLIENT = 39876, 39877, 39878
BROKER, BROKER_FOR_CLIENT = 30911, 30921
# Frames kept of each kind: more of those that come in several shapes.
KEEP = {"310-request": 4, "34-request": 4, "11-request": 2, "103-request": 2, "12-request": 2, "320-request": 2,
        "325-request": 2, "105-response-0": 2, "400-response-0": 2}
MAX_BYTES = 6000  # larger frames are left out


def read_head(frame):
    """(code, flag, opaque, is_binary) of a frame without its length word."""
    mark = struct.unpack(">I", frame[:4])[0]
    header = frame[4:4 + (mark & 0xFFFFFF)]
    if mark >> 24:
        code, _, _, opaque, flag = struct.unpack(">hBhii", header[:13])
        return code, flag, opaque, True
    head = json.loads(header)
    return head["code"], head.get("flag", 0), head["opaque"], False


class Recorder:
    def __init__(self, folder, private):
        """Frames that hold the text `private`, a path of this machine, are left out."""
        self.folder, self.private, self.lock, self.count = folder, private, threading.Lock(), {}
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, name, frame):
        with self.lock:
            if len(frame) > MAX_BYTES or self.private in frame:
                return
            n = self.count[name] = self.count.get(name, 0) + 1
            if n <= KEEP.get(name, 1):
                (self.folder / f"{name}-{n}.bin").write_bytes(struct.pack(">I", len(frame)) + frame)


def pipe(source, target, mine, theirs, recorder, rewrite):
    """Copies frames one way. `mine`: requests sent this way, opaque to name; `theirs`: those sent the other way."""
    stream = source.makefile("rb")
    try:
        while True:
            word = stream.read(4)
            if len(word) < 4:
                break
            frame = stream.read(struct.unpack(">I", word)[0])
            original = frame
            if rewrite:
                frame = frame.replace(str(BROKER).encode(), str(BROKER_FOR_CLIENT).encode())
            # Registered before it is passed on, so that an answer always finds its request.
            code, flag, opaque, _ = read_head(original)
            if flag & 1:
                name = f"{theirs.get(opaque, 'unknown')}-response-{code}"
            else:
                name = f"{code}" + ("-oneway" if flag & 2 else "")
                mine[opaque] = str(code)
                name += "-request"
            recorder.keep(name, original)
            target.sendall(struct.pack(">I", len(frame)) + frame)
    except OSError:
        pass
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def proxy(port, target_port, recorder, rewrite=False):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)

    def serve():
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", target_port))
            except OSError:
                return
            up, down = {}, {}
            for args in ((client, server, up, down, recorder, False), (server, client, down, up, recorder, rewrite)):
                threading.Thread(target=pipe, args=args, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return listener


def wait_port(port, process):
    for _ in range(600):
        if process.poll() is not None:
            sys.exit("a server ended while starting")
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"port {port} does not open")


def run(lib, folder, binary, work):
    env = dict(os.environ, ROCKETMQ_HOME=str(work))
    env.pop("ROCKETMQ_SERIALIZE_TYPE", None)
    if binary:
        env["ROCKETMQ_SERIALIZE_TYPE"] = "ROCKETMQ"
    java = ["java", "-XX:+UseSerialGC", f"-Duser.home={work}", "-Dcom.rocketmq.broker.diskSpaceWarningLevelRatio=0.99"]
    (work / "namesrv.conf").write_text(f"listenPort={NAMESRV}\nbindAddress=127.0.0.1\n"
                                       f"kvConfigPath={work}/kv.json\nconfigStorePath={work}/ns.properties\n")
    settings = {
        "brokerName": "broker-a", "brokerIP1": "127.0.0.1", "bindAddress": "127.0.0.1", "listenPort": BROKER,
        "namesrvAddr": f"127.0.0.1:{NAMESRV_FOR_BROKER}", "storePathRootDir": f"{work}/store",
        "storePathCommitLog": f"{work}/store/commitlog", "mappedFileSizeCommitLog": 16777216,
        "maxIndexNum": 10000, "maxHashSlotNum": 1000, "recallMessageEnable": "true", "traceTopicEnable": "true",
        "transactionTimeOut": 1000, "transactionCheckInterval": 2000, "enablePropertyFilter": "true",
        "diskMaxUsedSpaceRatio": 95,
    }
    (work / "broker.conf").write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
    recorder = Recorder(folder, str(work).encode())
    servers, listeners = [], []
    try:
        with open(work / "namesrv.out", "wb") as log:
            servers.append(subprocess.Popen(
                [*java, "-Xmx128m", "-cp", f"{lib}/*", "org.apache.rocketmq.namesrv.NamesrvStartup", "-c",
                 str(work / "namesrv.conf")], env=env, stdout=log, stderr=log))
        wait_port(NAMESRV, servers[-1])
        listeners = [proxy(NAMESRV_FOR_BROKER, NAMESRV, recorder), proxy(NAMESRV_FOR_CLIENT, NAMESRV, recorder, True),
                     proxy(BROKER_FOR_CLIENT, BROKER, recorder)]
        with open(work / "broker.out", "wb") as log:
            servers.append(subprocess.Popen(
                [*java, "-Xmx512m", "-XX:MaxDirectMemorySize=256m", "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
                 "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED", "-cp", f"{lib}/*",
                 "org.apache.rocketmq.broker.BrokerStartup", "-c", str(work / "broker.conf")],
                env=env, stdout=log, stderr=log))
        wait_port(BROKER, servers[-1])
        time.sleep(3)
        subprocess.run(["javac", "-nowarn", "-cp", f"{lib}/*", "-d", str(work), str(HERE / "Capture.java")], check=True)
        subprocess.run([*java, "-Xmx256m", "-cp", f"{lib}/*:{work}", "Capture", f"127.0.0.1:{NAMESRV_FOR_CLIENT}",
                        f"127.0.0.1:{BROKER_FOR_CLIENT}"], env=env, check=True, timeout=300)
    finally:
        for server in reversed(servers):
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
        for listener in listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lib")
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    parser.add_argument("--only", choices=["json", "binary"])
    args = parser.parse_args()
    for name in ("json", "binary"):
        if args.only in (None, name):
            shutil.rmtree(args.out / name, ignore_errors=True)
            with tempfile.TemporaryDirectory() as work:
                run(args.lib, args.out / name, name == "binary", pathlib.Path(work))
            print(f"{name}: {len(list((args.out / name).iterdir()))} frames")


if __name__ == "__main__":
    main()
