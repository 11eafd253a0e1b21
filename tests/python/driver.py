"""Drives the official Python client of the gRPC protocol by lines, with the verbs of tests/java/grpc/GrpcDriver.java."""

import os
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qsl, quote_plus

# The client writes its log below the home folder.
from rocketmq.grpc_protocol import FilterType, TransactionResolution
from rocketmq.v5.client import ClientConfiguration, Credentials
from rocketmq.v5.consumer import LitePushConsumer, LiteSimpleConsumer, PushConsumer, SimpleConsumer
from rocketmq.v5.consumer.push import ConsumeResult, MessageListener
from rocketmq.v5.model import FilterExpression, Message
from rocketmq.v5.producer import Producer, TransactionChecker

clients = {}
# What simple consumers hold, by message id.
held = {}
out = threading.Lock()


def line(text):
    with out:
        sys.stdout.buffer.write(f"{text}\n".encode())
        sys.stdout.buffer.flush()


def query(row):
    return "&".join(f"{quote_plus(key)}={quote_plus(str(value))}" for key, value in row.items())


def row_of(message):
    row = {
        "topic": message.topic,
        "id": message.message_id,
        "attempt": message.delivery_attempt,
        "len": len(message.body),
        "crc": zlib.crc32(message.body),
        "body": message.body.decode("utf-8", "replace"),
        "keys": " ".join(sorted(message.keys)),
        "at": int(time.time() * 1000),
        "tags": message.tag or "",
        "group": message.message_group or "",
    }
    if message.priority is not None:
        row["priority"] = message.priority
    if message.lite_topic:
        row["lite"] = message.lite_topic
    if message.delivery_timestamp:
        row["delivery"] = message.delivery_timestamp
    row.update({f"p.{key}": value for key, value in message.properties.items()})
    if message.corrupted:
        raise ValueError(f"the body of {message.message_id} is not what its digest says")
    return row


class Listener(MessageListener):
    """Tells each delivery, and fails the first ones of each message."""

    def __init__(self, name, failing):
        self.name, self.failing = name, failing

    def consume(self, message):
        line(f"event {self.name} {query(row_of(message))}")
        return ConsumeResult.FAILURE if message.delivery_attempt <= self.failing else ConsumeResult.SUCCESS


class Checker(TransactionChecker):
    """Tells what it is asked about, and commits."""

    def __init__(self, name):
        self.name = name

    def check(self, message):
        line(f"event {self.name} {query(row_of(message))}")
        return TransactionResolution.COMMIT


def configuration(args):
    return ClientConfiguration(args["endpoints"], Credentials(), args.get("namespace", ""))


def subscription(args):
    if "sql" in args:
        return {args["topic"]: FilterExpression(args["sql"], FilterType.SQL)}
    return {args["topic"]: FilterExpression(args.get("expression", "*"))}


def build(spec):
    given = dict(parse_qsl(spec, keep_blank_values=True))
    message = Message()
    message.topic, message.body = given["topic"], given["body"].encode()
    for key, value in given.items():
        if key == "tags":
            message.tag = value
        elif key == "keys":
            for one in value.split(" "):
                message.keys = one
        elif key == "group":
            message.message_group = value
        elif key == "lite":
            message.lite_topic = value
        elif key == "priority":
            message.priority = int(value)
        elif key == "delay":
            # Seconds are what this client knows.
            message.delivery_timestamp = int(time.time() + int(value) / 1000) + 1
        elif key.startswith("p."):
            message.add_property(key[2:], value)
    return message


def open_client(verb, args):
    tls = args.get("tls") == "true"
    if verb == "producer":
        checker = Checker(args["name"]) if "check" in args else None
        client = Producer(configuration(args), (args["topic"],), checker, tls)
    elif verb in ("consumer", "lite"):
        listener = Listener(args["name"], int(args.get("fail", 0)))
        if verb == "lite":
            client = LitePushConsumer(configuration(args), args["group"], args["topic"], listener,
                                      consumption_thread_count=4, tls_enable=tls)
        else:
            client = PushConsumer(configuration(args), args["group"], listener, subscription(args),
                                  consumption_thread_count=4, tls_enable=tls)
    elif verb == "lite_simple":
        client = LiteSimpleConsumer(args["topic"], configuration(args), args["group"], await_duration=5, tls_enable=tls)
    else:
        client = SimpleConsumer(configuration(args), args["group"], subscription(args), await_duration=5, tls_enable=tls)
    clients[args["name"]] = client
    client.startup()


def result(receipt):
    return {"id": receipt.message_id, "recall": receipt.recall_handle or ""}


def transact(producer, message, end):
    transaction = producer.begin_transaction()
    receipt = producer.send(message, transaction)
    if end == "commit":
        transaction.commit()
    elif end == "rollback":
        transaction.rollback()
    return result(receipt)


def run(verb, args, messages, answer):
    if verb in ("producer", "consumer", "lite", "simple", "lite_simple"):
        return open_client(verb, args)
    if verb == "stop":
        client = clients.pop(args["name"], None)
        return client.shutdown() if client else None
    client = clients[args["name"]]
    if verb == "send":
        for message in messages:
            answer(result(client.send(build(message))))
    elif verb == "transact":
        for message in messages:
            answer(transact(client, build(message), args["end"]))
    elif verb == "recall":
        answer({"id": client.recall_message(args["topic"], args["handle"])})
    elif verb == "subscribe":
        client.subscribe_lite(args["lite"])
    elif verb == "unsubscribe":
        client.unsubscribe_lite(args["lite"])
    elif verb == "receive":
        for message in client.receive(int(args.get("max", 16)), int(args["invisible"]) // 1000) or ():
            held[message.message_id] = message
            answer(row_of(message))
    elif verb == "ack":
        client.ack(held[args["id"]])
    elif verb == "invisible":
        client.change_invisible_duration(held[args["id"]], int(args["invisible"]) // 1000)
    else:
        raise ValueError(f"unknown verb {verb}")


def serve(request):
    number, verb, text = (request.rstrip("\n").split(" ", 2) + [""])[:3]
    try:
        pairs = parse_qsl(text, keep_blank_values=True)
        args = {key: value for key, value in pairs if key != "m"}
        run(verb, args, [value for key, value in pairs if key == "m"], lambda row: line(f"{number} row {query(row)}"))
        line(f"{number} done")
    except Exception as error:
        line(f"{number} fail {query({'error': repr(error), 'code': getattr(error, 'code', '')})}")


def main():
    line("ready")
    with ThreadPoolExecutor(64) as threads:
        for request in sys.stdin:
            threads.submit(serve, request)
        os._exit(0)


if __name__ == "__main__":
    main()
