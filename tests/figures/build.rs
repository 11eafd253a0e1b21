//! Generates the messages of the second protocol from `proto/`, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    println!("cargo:rerun-if-changed={root}");
    let files = protox::compile(["apache/rocketmq/v2/service.proto"], [root])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .build_client(false)
        .build_server(false)
        .bytes(".apache.rocketmq.v2.Message.body")
        .compile_fds(files)?;
    Ok(())
}
