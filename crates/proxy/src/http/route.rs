//! Which path is which call, on one page.

use std::time::Instant;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::ORIGIN;
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};

use crate::http::answer::{self, Answer, Failure};
use crate::http::handles::Verb;
use crate::http::query::decoded;
use crate::http::{Endpoint, handles, health, recall, receive, send};
use crate::observe::{Outcome, Protocol, Sent};
use crate::tls::Ends;

/// What is served, for clients that can read it.
const DESCRIPTION: &str = include_str!("openapi.json");

/// One request.
pub(crate) struct Asked {
    pub ends: Ends,
    pub head: Parts,
    pub body: Incoming,
}

/// Serves one request, whatever comes of it.
pub(crate) async fn answer(endpoint: &Endpoint, ends: Ends, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let (began, call) = (Instant::now(), method_name(&head.method));
    let answer = answer_to(endpoint, Asked { ends, head, body }).await;
    let code = answer.status().as_u16().into();
    let outcome = Outcome { protocol: Protocol::Http, call, code, polls: None, sent: Sent::Success };
    endpoint.service.calls.served(outcome, &ends.peer, began);
    answer
}

/// A closed list, for figures: anybody may invent a method.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

async fn answer_to(endpoint: &Endpoint, asked: Asked) -> Answer {
    match serve(endpoint, asked).await {
        Ok(answer) => answer,
        Err(failure) if failure.is_internal() => match health::unready(endpoint) {
            Some(why) => Failure::unavailable(why).answer(),
            None => failure.answer(),
        },
        Err(failure) => failure.answer(),
    }
}

async fn serve(endpoint: &Endpoint, asked: Asked) -> Result<Answer, Failure> {
    if asked.head.headers.contains_key(ORIGIN) {
        // A page of any site could otherwise talk to a broker of the machine it is looked at.
        return Err(Failure::forbidden("web pages are not served: the request has an Origin"));
    }
    let path = asked.head.uri.path();
    let Some(path) = path.strip_prefix('/') else { return Err(Failure::bad_request("the path is not absolute")) };
    let segments = path.split('/').map(decoded).collect::<Result<Vec<_>, _>>()?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let method = asked.head.method.clone();
    match (&segments[..], &method) {
        (["health", "live"], &Method::GET | &Method::HEAD) => Ok(health::live()),
        (["health", "ready"], &Method::GET | &Method::HEAD) => health::ready(endpoint),
        (["openapi.json"], &Method::GET | &Method::HEAD) => Ok(description()),
        (["metrics"], &Method::GET | &Method::HEAD) => Ok(metrics(endpoint)),
        (["health", "live" | "ready"] | ["openapi.json" | "metrics"], _) => Err(Failure::method("GET, HEAD")),
        (["v1", "topics", topic, "messages"], &Method::POST) => send::send(endpoint, topic, asked).await,
        (["v1", "topics", topic, "messages"], &Method::GET) => receive::receive(endpoint, topic, asked).await,
        (["v1", "topics", _, "messages"], _) => Err(Failure::method("GET, POST")),
        (["v1", "topics", topic, "messages", handle], &Method::DELETE) => {
            recall::recall(endpoint, topic, handle, asked).await
        }
        (["v1", "topics", _, "messages", _], _) => Err(Failure::method("DELETE")),
        (["v1", "topics", topic, "groups", group, verb], method) => match (Verb::named(verb), method) {
            (Some(verb), &Method::POST) => handles::apply(endpoint, topic, group, verb, asked).await,
            (Some(_), _) => Err(Failure::method("POST")),
            (None, _) => Err(nothing_here()),
        },
        _ => Err(nothing_here()),
    }
}

fn nothing_here() -> Failure {
    Failure::not_found("nothing is served at this path; /openapi.json says what is")
}

/// Figures of all protocols, as Prometheus reads them.
fn metrics(endpoint: &Endpoint) -> Answer {
    let service = &endpoint.service;
    let text = service.calls.text(service.door.mode(), service.clients.count(), endpoint.count_waiting());
    answer::whole(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into())
}

fn description() -> Answer {
    answer::whole(StatusCode::OK, "application/json", Bytes::from_static(DESCRIPTION.as_bytes()))
}
