//! The official clients.

/// An official client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    Java5,
    /// The same with TLS.
    Java5Tls,
    Java4,
    Go,
    /// `rocketmq-client-java`, the gRPC protocol.
    GrpcJava,
    /// `rocketmq-clients/golang/v5`, the gRPC protocol.
    GrpcGo,
    /// `rocketmq-python-client`, the gRPC protocol.
    GrpcPython,
    /// `rocketmq-client-nodejs`, the gRPC protocol.
    GrpcNode,
    /// `rocketmq` of crates.io, the gRPC protocol.
    GrpcRust,
}

impl Client {
    /// For names of cases, topics and groups.
    pub fn label(self) -> &'static str {
        match self {
            Client::Java5 => "java5",
            Client::Java5Tls => "java5-tls",
            Client::Java4 => "java4",
            Client::Go => "go",
            Client::GrpcJava => "grpc-java",
            Client::GrpcGo => "grpc-go",
            Client::GrpcPython => "grpc-python",
            Client::GrpcNode => "grpc-node",
            Client::GrpcRust => "grpc-rust",
        }
    }
}
