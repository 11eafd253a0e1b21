//! Topics and groups of requests (`GrpcValidator`, `NamespaceUtil`).

use ferromq_protocol::topic;

use crate::pb::{Code, Resource};
use crate::status::Refused;

/// The topic a request names.
pub(crate) fn topic(resource: Option<&Resource>) -> Result<String, Refused> {
    let name = name(resource);
    let refuse = |why: String| Err(Refused::new(Code::IllegalTopic, why));
    match topic::validate_topic(&name) {
        Err(error) => refuse(error.to_string()),
        Ok(()) if topic::is_system_topic(&name) => refuse(format!("cannot access system topic: {name}")),
        Ok(()) => Ok(name),
    }
}

/// The consumer group a request names.
pub(crate) fn group(resource: Option<&Resource>) -> Result<String, Refused> {
    let name = name(resource);
    let refuse = |why: String| Err(Refused::new(Code::IllegalConsumerGroup, why));
    match topic::validate_group(&name) {
        Err(error) => refuse(error.to_string()),
        Ok(()) if topic::is_system_group(&name) => refuse(format!("cannot use system consumer group: {name}")),
        Ok(()) => Ok(name),
    }
}

/// Longest lite topic, bytes (`maxLiteTopicSize`).
pub(crate) const MAX_LITE_TOPIC: usize = 64;

/// Checks the lite topic a request names.
pub(crate) fn check_lite(name: &str) -> Result<(), Refused> {
    let refuse = |why: String| Err(Refused::new(Code::IllegalLiteTopic, why));
    if name.len() > MAX_LITE_TOPIC {
        return refuse(format!("the lite topic has {} bytes, more than {MAX_LITE_TOPIC}", name.len()));
    }
    match topic::is_lite_topic(name) {
        true => Ok(()),
        false => refuse(format!("the lite topic {name:?} may have letters, digits, hyphens and underscores only")),
    }
}

/// The full name, with the namespace before it as remoting clients write it.
fn name(resource: Option<&Resource>) -> String {
    match resource {
        None => String::new(),
        Some(resource) if resource.resource_namespace.is_empty() => resource.name.clone(),
        Some(resource) => format!("{}%{}", resource.resource_namespace, resource.name),
    }
}
