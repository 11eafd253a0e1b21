//! What is refused, and bytes that are no HTTP.

use serde_json::Value;

use super::{Http, JSON};

/// Method, path, further lines of the head, body; status and code.
type Row<'a> = (&'a str, &'a str, &'a str, &'a [u8], u16, &'a str);

#[test]
fn what_cannot_be_is_refused_with_its_status_and_why() {
    let http = Http::start();
    let (post, get) = ("POST", "GET");
    let messages = "/v1/topics/T/messages";
    let of_group = "/v1/topics/T/groups/g/ack";
    let big = vec![b'x'; 5 << 20];
    let table: &[Row<'_>] = &[
        (get, "/", "", b"", 404, "NOT_FOUND"),
        (get, "/v1/topics/T", "", b"", 404, "NOT_FOUND"),
        (get, "/v1/topics/T/messages/", "", b"", 405, "METHOD_NOT_ALLOWED"),
        (post, "/health/live", "", b"", 405, "METHOD_NOT_ALLOWED"),
        ("PUT", messages, "", b"x", 405, "METHOD_NOT_ALLOWED"),
        ("BREW", of_group, "", b"", 405, "METHOD_NOT_ALLOWED"),
        (get, "/v1/topics/%FF/messages?group=g", "", b"", 400, "BAD_REQUEST"),
        (get, "/v1/topics/a%2Fb/messages?group=g", "", b"", 400, "ILLEGAL_TOPIC"),
        (get, "/v1/topics//messages?group=g", "", b"", 400, "ILLEGAL_TOPIC"),
        (get, "/v1/topics/TBW102/messages?group=g", "", b"", 400, "ILLEGAL_TOPIC"),
        (get, messages, "", b"", 400, "BAD_REQUEST"),
        (get, "/v1/topics/T/messages?group=", "", b"", 400, "ILLEGAL_CONSUMER_GROUP"),
        (get, "/v1/topics/T/messages?group=g&max=0", "", b"", 400, "BAD_REQUEST"),
        (get, "/v1/topics/T/messages?group=g&max=33", "", b"", 400, "BAD_REQUEST"),
        (get, "/v1/topics/T/messages?group=g&waitMs=x", "", b"", 400, "BAD_REQUEST"),
        (get, "/v1/topics/T/messages?group=g&waitMs=99999999", "", b"", 400, "BAD_REQUEST"),
        (get, "/v1/topics/T/messages?group=g&invisibleMs=1", "", b"", 400, "BAD_REQUEST"),
        (get, "/v1/topics/T/messages?group=g&filter=a&sql=b", "", b"", 400, "BAD_REQUEST"),
        (get, "/v1/topics/T/messages?group=g&fliter=a", "", b"", 400, "BAD_REQUEST"),
        (get, "/v1/topics/T/messages?group=g", "", b"", 404, "TOPIC_NOT_FOUND"),
        (post, messages, "", b"", 400, "MESSAGE_BODY_EMPTY"),
        (post, messages, "", &big, 413, "PAYLOAD_TOO_LARGE"),
        (post, messages, "Content-Encoding: gzip\r\n", b"x", 415, "UNSUPPORTED_MEDIA_TYPE"),
        (post, messages, "Origin: http://elsewhere.example\r\n", b"x", 403, "FORBIDDEN"),
        (post, "/v1/topics/T/messages?tag=a&tag=b", "", b"x", 400, "BAD_REQUEST"),
        (post, "/v1/topics/T/messages?tag=a%7Cb", "", b"x", 400, "ILLEGAL_MESSAGE_TAG"),
        (post, "/v1/topics/T/messages?key=%01", "", b"x", 400, "ILLEGAL_MESSAGE_KEY"),
        (post, "/v1/topics/T/messages?property.KEYS=x", "", b"x", 400, "ILLEGAL_MESSAGE_PROPERTY_KEY"),
        (post, "/v1/topics/T/messages?delayMs=-1", "", b"x", 400, "BAD_REQUEST"),
        (post, "/v1/topics/T/messages?delayMs=9223372036854775807", "", b"x", 400, "ILLEGAL_DELIVERY_TIME"),
        (post, "/v1/topics/T/messages?delayMs=5&deliverAtMs=5", "", b"x", 400, "BAD_REQUEST"),
        (post, "/v1/topics/T/messages?delayMs=500", "", b"x", 400, "MESSAGE_PROPERTY_CONFLICT_WITH_TYPE"),
        (post, messages, JSON, b"", 400, "BAD_REQUEST"),
        (post, messages, JSON, b"hello", 400, "BAD_REQUEST"),
        (post, messages, JSON, b"[\"hello\"]", 400, "BAD_REQUEST"),
        (post, messages, JSON, b"{}", 400, "BAD_REQUEST"),
        (post, messages, JSON, b"{\"body\": 5}", 400, "BAD_REQUEST"),
        (post, messages, JSON, b"{\"body\": \"x\", \"boddy\": 5}", 400, "BAD_REQUEST"),
        (post, messages, JSON, b"{\"body\": \"x\", \"body\": \"y\"}", 400, "BAD_REQUEST"),
        (post, messages, JSON, b"{\"body\": \"x\", \"bodyBase64\": \"eA==\"}", 400, "BAD_REQUEST"),
        (post, messages, JSON, b"{\"bodyBase64\": \"%\"}", 400, "BAD_REQUEST"),
        (post, messages, JSON, b"{\"body\": \"\xff\"}", 400, "BAD_REQUEST"),
        (post, messages, JSON, b"{\"body\": \"x\", \"delayMs\": -5}", 400, "BAD_REQUEST"),
        (post, messages, JSON, &[b'['; 4096], 400, "BAD_REQUEST"),
        (post, "/v1/topics/T/messages?tag=x", JSON, b"{\"body\": \"x\"}", 400, "BAD_REQUEST"),
        (post, of_group, "", b"[\"x\"]", 415, "UNSUPPORTED_MEDIA_TYPE"),
        (post, of_group, JSON, b"{\"a\": \"x\"}", 400, "BAD_REQUEST"),
        (post, of_group, JSON, b"[5]", 400, "BAD_REQUEST"),
        (post, of_group, JSON, b"[]", 400, "BAD_REQUEST"),
        (post, of_group, JSON, &big, 413, "PAYLOAD_TOO_LARGE"),
        (post, "/v1/topics/T/groups/g/invisible", JSON, b"[\"x\"]", 400, "BAD_REQUEST"),
        (post, "/v1/topics/T/groups/g/no-verb", JSON, b"[\"x\"]", 404, "NOT_FOUND"),
        ("DELETE", "/v1/topics/T/messages/no-handle", "", b"", 400, "BAD_REQUEST"),
    ];
    let mut wrong = Vec::new();
    for (method, path, further, body, status, code) in table {
        let answer = http.ask(method, path, further, body);
        let is_told = serde_json::from_str::<Value>(&answer.body)
            .is_ok_and(|told| told["code"] == *code && told["message"].as_str().is_some_and(|why| !why.is_empty()));
        if answer.status != *status || !is_told {
            wrong.push(format!(
                "{method} {path} {:?}: {answer:?}",
                String::from_utf8_lossy(&body[..body.len().min(60)])
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let refused = http.ask("PUT", messages, "", b"x");
    assert!(refused.head.to_lowercase().contains("allow: get, post"), "{refused:?}");
}

#[test]
fn bytes_that_are_no_http_end_only_their_connection() {
    let http = Http::start();
    let head = format!("GET /health/live HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(20_000));
    let many = format!("GET /health/live HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(200));
    let ours = [
        (&b"\x16\x03\x01\x02\x00 a TLS client"[..], 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0),
        (b"GET /health/live HTTP/9.9\r\n\r\n", 400),
        (b"POST /v1/topics/T/messages HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v1/topics/T/messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (head.as_bytes(), 431),
        (many.as_bytes(), 431),
    ];
    for (bytes, status) in ours {
        let answer = http.raw(bytes);
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(70)]);
        assert!(answer.status == status || answer.status == 0, "{what:?}: {answer:?}");
        assert_eq!(http.get("/health/live").status, 200, "after {what:?}");
    }
}
