//! The OpenAPI description against what is really served.

use serde_json::Value;

use super::{Http, JSON};

/// Every path and method of the description is served, and answers what the description says.
#[test]
fn the_description_is_what_is_served() {
    let http = Http::start();
    let description = http.get("/openapi.json").json();
    assert!(description["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    let paths = description["paths"].as_object().unwrap();
    http.create("Described", "delay");
    let mut walked = 0;
    for (path, methods) in paths {
        for (method, call) in methods.as_object().unwrap() {
            let responses = call["responses"].as_object().unwrap();
            let (further, body): (&str, &[u8]) = match call["requestBody"]["content"].as_object() {
                Some(content) if content.contains_key("*/*") => ("", b"x"),
                Some(_) => (JSON, b"[\"x\"]"),
                None => ("", b""),
            };
            let names = call["parameters"].as_array().cloned().unwrap_or_default();
            let names: Vec<Value> = names.iter().map(|parameter| resolved(&description, parameter)).collect();
            let required = names.iter().filter(|p| p["in"] == "query" && p["required"] == true);
            let query: Vec<String> = required
                .map(|p| {
                    format!(
                        "{}={}",
                        p["name"].as_str().unwrap(),
                        if p["schema"]["type"] == "integer" { "1" } else { "g" }
                    )
                })
                .collect();
            let filled = path.replace("{topic}", "Described").replace("{group}", "g").replace("{recallHandle}", "h");
            for name in names.iter().filter(|p| p["in"] == "path") {
                assert!(path.contains(&format!("{{{}}}", name["name"].as_str().unwrap())), "{path}: {name}");
            }
            // As it should be, with a parameter that nobody knows, and by a method that is not served.
            let answers = [
                http.ask(&method.to_uppercase(), &format!("{filled}?{}", query.join("&")), further, body),
                http.ask(&method.to_uppercase(), &format!("{filled}?{}&nobody=knows", query.join("&")), further, body),
            ];
            for answer in answers {
                let described = responses.get(&answer.status.to_string());
                let described = described.unwrap_or_else(|| panic!("{method} {path}: not described: {answer:?}"));
                let content = resolved(&description, described)["content"].clone();
                match content["text/plain"].is_object() {
                    true => assert!(answer.head.contains("text/plain") && !answer.body.is_empty(), "{answer:?}"),
                    false => fits(&description, &content["application/json"]["schema"], &answer.json()),
                }
                walked += 1;
            }
            assert_eq!(http.ask("OPTIONS", &filled, "", b"").status, 405, "{path}");
        }
    }
    assert_eq!(walked, 2 * 10, "calls");
}

/// What was asked for is counted, by method and status.
#[test]
fn calls_are_counted() {
    let http = Http::start();
    assert_eq!(http.get("/nothing/here").status, 404);
    http.create("Counted", "normal");
    assert_eq!(http.ask("POST", "/v1/topics/Counted/messages", "", b"x").status, 201);
    let figures = http.get("/metrics").body;
    for (name, labels) in [
        ("rocketmq_proxy_up", "node_type=\"proxy\",proxy_mode=\"local\"}"),
        (
            "rocketmq_rpc_latency_milliseconds_count",
            "protocol_type=\"http\",request_code=\"get\",response_code=\"404\"",
        ),
        (
            "rocketmq_rpc_latency_milliseconds_count",
            "protocol_type=\"http\",request_code=\"post\",response_code=\"201\"",
        ),
    ] {
        let is_it = |line: &str| line.starts_with(name) && line.contains(labels) && line.ends_with("} 1");
        assert!(figures.lines().any(is_it), "{name} with {labels} is not in\n{figures}");
    }
}

fn resolved(description: &Value, value: &Value) -> Value {
    match value["$ref"].as_str() {
        Some(place) => description.pointer(&place[1..]).unwrap_or_else(|| panic!("{place} is nowhere")).clone(),
        None => value.clone(),
    }
}

/// Whether a value is what a schema says: types, and fields that must be and may be.
fn fits(description: &Value, schema: &Value, value: &Value) {
    let schema = resolved(description, schema);
    let is_so = match schema["type"].as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        other => panic!("a type that is not looked at: {other}"),
    };
    assert!(is_so, "{value} is no {schema}");
    for entry in value.as_array().into_iter().flatten() {
        fits(description, &schema["items"], entry);
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(value.get(required.as_str().unwrap()).is_some(), "{value} has no {required}");
    }
    let Some(properties) = schema["properties"].as_object() else { return };
    for (name, field) in value.as_object().into_iter().flatten() {
        fits(description, properties.get(name).unwrap_or_else(|| panic!("{name} is not described")), field);
    }
}
