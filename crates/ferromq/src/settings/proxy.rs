//! The proxy's own settings: RocketMQ's `rmq-proxy.json`.

use std::path::Path;

use serde_json::{Map, Value};

use super::SettingsError;

/// Port of gRPC clients (`grpcServerPort`).
const GRPC_PORT: u16 = 8081;

/// The port for gRPC clients; other settings have no effect and are named in the log.
pub fn read(path: Option<&Path>) -> Result<u16, SettingsError> {
    let Some(path) = path else { return Ok(GRPC_PORT) };
    let wrong = |why: String| SettingsError(format!("the proxy's settings {}: {why}", path.display()));
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let settings: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|error| wrong(format!("this is no JSON object: {error}")))?;
    let mut port = GRPC_PORT;
    let mut others = Vec::new();
    for (key, value) in &settings {
        if key == "grpcServerPort" {
            let number = value.as_u64().and_then(|number| u16::try_from(number).ok());
            port = number.ok_or_else(|| wrong(format!("grpcServerPort is a port from 0 to 65535, not {value}")))?;
        } else {
            others.push(key.as_str());
        }
    }
    if !others.is_empty() {
        tracing::info!("settings of RocketMQ's proxy that have no effect here: {}", others.join(", "));
    }
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_and_broken_files_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rmq-proxy.json");
        let read_text = |text: &str| {
            std::fs::write(&file, text).unwrap();
            read(Some(&file))
        };
        assert_eq!(read(None).unwrap(), 8081);
        assert_eq!(read_text(r#"{"rocketMQClusterName": "DefaultCluster"}"#).unwrap(), 8081);
        assert_eq!(read_text(r#"{"grpcServerPort": 18081}"#).unwrap(), 18081);
        for bad in ["", "[]", r#"{"grpcServerPort": "x"}"#, r#"{"grpcServerPort": 70000}"#] {
            assert!(read_text(bad).unwrap_err().to_string().contains("rmq-proxy.json"), "{bad}");
        }
    }
}
